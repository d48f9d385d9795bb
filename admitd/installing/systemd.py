"""systemd: the daemon as two units of the user's own systemd: a service, and the sockets that outlive its restarts."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from admitd import actuator
from admitd.installing.wanted import KeeperFailed, NotInstalled, State, Wanted, put, take_away, template

SERVICE: Final = "admit.service"
SOCKET: Final = "admit.socket"
BOUND_S: Final = 120.0
"""A start waits until the daemon serves, and systemd gives it 90 s."""
LINGER: Final = Path("/var/lib/systemd/linger")
_SHOWN: Final = ("ActiveState", "SubState", "Result", "MainPID", "NRestarts", "UnitFileState")


class Systemd:
    """`systemctl --user`, of the user whose home it is."""

    name = "systemd"

    def __init__(self, environ: Mapping[str, str], home: str) -> None:
        named = environ.get("XDG_CONFIG_HOME", "")
        config = Path(named) if named.startswith("/") else Path(home, ".config")
        self._folder = config / "systemd" / "user"
        self._files = (self._folder / SERVICE, self._folder / SOCKET)

    def install(self, wanted: Wanted) -> tuple[str, ...]:
        self._ctl("daemon-reload")  # where there is no systemd of the user's, nothing is left behind
        is_first = not self._is_there()
        try:
            return self._install(wanted)
        except KeeperFailed as problem:
            if not is_first:
                raise
            with contextlib.suppress(KeeperFailed):
                self.uninstall()  # or it would fail again at each login
            raise KeeperFailed(f"nothing was installed: {problem}") from problem

    def _install(self, wanted: Wanted) -> tuple[str, ...]:
        written = []
        for path, text in zip(self._files, (service_unit(wanted), socket_unit(wanted)), strict=True):
            if put(path, text.encode()):
                written.append(str(path))
        self._ctl("daemon-reload")
        self._ctl("enable", SOCKET, SERVICE)
        if str(self._files[1]) in written:
            self._ctl("stop", SERVICE, SOCKET)
        elif written and self.state().running:
            self._ctl("restart", SERVICE)
        self.start()
        return tuple(written)

    def uninstall(self) -> tuple[str, ...]:
        if not self._is_there():
            return ()
        self._ctl("disable", "--now", SERVICE, SOCKET)
        gone = take_away(self._files)
        with contextlib.suppress(OSError):  # others have units there
            self._folder.rmdir()
            self._folder.parent.rmdir()
        self._ctl("daemon-reload")
        self._ask("reset-failed", SERVICE, SOCKET)  # fails where there is nothing to forget
        return gone

    def start(self) -> None:
        self._check()
        self._ask("reset-failed", SERVICE, SOCKET)  # else one that failed five times is not tried again for a while
        self._ctl("start", SOCKET, SERVICE)

    def stop(self) -> None:
        self._check()
        self._ctl("stop", SERVICE, SOCKET)

    def restart(self) -> None:
        self._check()
        self._ask("reset-failed", SERVICE, SOCKET)
        self._ctl("start", SOCKET)
        self._ctl("restart", SERVICE)

    def state(self) -> State:
        code, printed = self._ask("show", SERVICE, *(f"--property={name}" for name in _SHOWN))
        shown = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line) if code == 0 else {}
        files = tuple(str(path) for path in self._files if path.exists())
        said = f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', 'unknown')})"
        if shown.get("Result", "success") != "success":
            said += f", it ended with {shown['Result']}"
        running = shown.get("ActiveState") in ("active", "reloading")
        return State(
            installed=len(files) == len(self._files),
            running=running,
            said=said if code == 0 else _why(printed),
            pid=_count(shown.get("MainPID")) or None,
            restarts=_count(shown.get("NRestarts")),
            at_boot=(LINGER / _user()).exists(),
            files=files,
            command=self._command(),
            hardened="\nNoNewPrivileges=yes\n" in self._unit() or not self._unit(),
            failed=shown.get("ActiveState") == "failed",
            held=bool(files) and code == 0 and not running and self._ask("is-active", "--quiet", SOCKET)[0] == 0,
        )

    def log(self, lines: int) -> list[str]:
        code, printed = actuator.answer([*self._journal(lines), "--quiet"], BOUND_S)
        if code != 0:
            raise KeeperFailed(f"journalctl ended with exit {code}: {_first(printed)}")
        return printed.splitlines()

    def log_command(self, lines: int) -> list[str]:
        return [*self._journal(lines), "--follow"]

    def _journal(self, lines: int) -> list[str]:
        # Not `--user --unit`: that opens the user's own files alone, and there are none where the journal is not kept
        # on disk, nor for root; what is looked for stands in the system's files then.
        return ["journalctl", "--no-pager", f"--user-unit={SERVICE}", f"--user-unit={SOCKET}", f"--lines={lines}"]

    def _unit(self) -> str:
        try:
            return self._files[0].read_text()
        except (OSError, ValueError):
            return ""

    def _command(self) -> tuple[str, ...]:
        found = re.search(r"^ExecStart=(.*)$", self._unit(), re.MULTILINE)
        try:
            words = shlex.split(found[1]) if found is not None else []
        except ValueError:
            return ()  # not as we wrote it
        return tuple(word.replace("$$", "$").replace("%%", "%") for word in words)

    def _is_there(self) -> bool:
        return any(path.exists() for path in self._files)

    def _check(self) -> None:
        if not self._is_there():
            raise NotInstalled

    def _ask(self, *words: str) -> tuple[int, str]:
        try:
            return actuator.answer(("systemctl", "--user", "--no-pager", *words), BOUND_S)
        except actuator.CannotStart as problem:
            raise KeeperFailed(f"{problem}; without systemd, run this by your own means: admit daemon run") from problem

    def _ctl(self, *words: str) -> None:
        code, printed = self._ask(*words)
        if code != 0:
            raise KeeperFailed(f"systemctl --user {' '.join(words)}: {_why(printed)}")


def service_unit(wanted: Wanted) -> str:
    """The service's unit file."""
    lines = template("systemd", SERVICE).decode()
    environment = [f"Environment={quoted(f'{name}={value}')}" for name, value in wanted.environ.items()]
    hardening = template("systemd", "hardening.conf").decode().rstrip("\n") if wanted.hardened else ""
    # A dollar names a variable on a command line, and nowhere else in a unit (systemd.service(5)).
    command = " ".join(quoted(word).replace("$", "$$") for word in wanted.command())
    return _filled(lines, COMMAND=command, ENVIRONMENT="\n".join(environment), HARDENING=hardening)


def socket_unit(wanted: Wanted) -> str:
    """The sockets' unit file."""
    unix = "" if wanted.unix is None else f"ListenStream={_literal(wanted.unix)}"
    return _filled(template("systemd", SOCKET).decode(), PORT=str(wanted.port), UNIX=unix)


def quoted(word: str) -> str:
    """A word of a unit file that stands for exactly itself."""
    return '"' + _literal(word).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(text: str) -> str:
    if not text.isprintable():
        raise KeeperFailed(f"{text!r} cannot be written into a unit file: it holds a line break or the like")
    return text.replace("%", "%%")


def _filled(text: str, **values: str) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@\n", f"{value}\n" if value else "").replace(f"@{name}@", value)
    return text


def _why(printed: str) -> str:
    """What systemctl said, and what it means where it is known."""
    said = _first(printed)
    if "connect to bus" in printed:
        return (
            f"{said}. No systemd runs for {_user()} here: log in as {_user()} itself (not by su or sudo), "
            f"or run: sudo loginctl enable-linger {_user()}"
        )
    if any(words in printed for words in ("failed because", "control process exited", "Job failed")):
        return f"{said} What it said: admit daemon logs"
    return said


def _first(printed: str) -> str:
    return next((line.strip() for line in printed.splitlines() if line.strip()), "it said nothing")


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
