"""launchd: the daemon as an agent of the user who is logged in. What launchctl's exit codes mean stands here.

Written from launchd.plist(5), launchctl(1) and codes that others observed; not seen on a Mac (docs/macos.md). `load`
and `unload` always end with 0, so they are not used; nor is what `print` prints ever read, which is no interface.
"""

from __future__ import annotations

import plistlib
import time
from pathlib import Path
from typing import Final
from xml.parsers.expat import ExpatError

from admitd import actuator
from admitd.installing.wanted import KeeperFailed, NotInstalled, State, Wanted, put, take_away, template

LABEL: Final = "local.admit.daemon"
LAUNCHCTL: Final = "/bin/launchctl"
BOUND_S: Final = 30.0
PAUSE_S: Final = 0.2
LOG: Final = "Library/Logs/admit/admitd.log"

DONE, NO_PROCESS, STILL_LEAVING, EXISTS, IN_PROGRESS, ALREADY = 0, 3, 5, 17, 36, 37
NO_SESSION, NO_SERVICE, DISABLED, BAD_OWNER, TEARING_DOWN = 112, 113, 119, 122, 124
NO_DOMAIN, BAD_SESSION, QUARANTINED = 125, 134, 155
_PASSING: Final = frozenset({STILL_LEAVING, ALREADY})
"""What the same question is answered with for the seconds that another of its kind takes."""
_ELSEWHERE: Final = frozenset({NO_SESSION, NO_DOMAIN})
"""Without a desktop session nothing can be loaded in it. Which of the two is said differs by version of macOS."""
_MEANS: Final[dict[int, str]] = {
    STILL_LEAVING: "the old one is still ending, or the plist cannot be read; try again",
    NO_SESSION: "there is no desktop session of yours: log in at the screen, then try again "
    "(a Mac without one: docs/installing.md)",
    DISABLED: "it is switched off; switch it on in System Settings > General > Login Items",
    BAD_OWNER: "the plist must be yours, and writable by nobody else",
    TEARING_DOWN: "your session is ending; try again after the next login",
    BAD_SESSION: "it is for a desktop session, and this is none",
    QUARANTINED: "the program is quarantined; run: xattr -d com.apple.quarantine on it",
}
_MEANS[NO_DOMAIN] = _MEANS[NO_SESSION]


class Launchd:
    """`launchctl` in the domain of the user's desktop session."""

    name = "launchd"

    def __init__(self, home: str, uid: int, launchctl: str = LAUNCHCTL, bound_s: float = BOUND_S) -> None:
        self._plist = Path(home, "Library", "LaunchAgents", f"{LABEL}.plist")
        self._log = Path(home, LOG)
        self._domain = f"gui/{uid}"
        self._target = f"gui/{uid}/{LABEL}"
        self._launchctl = launchctl
        self._bound_s = bound_s

    def install(self, wanted: Wanted) -> tuple[str, ...]:
        was_loaded = self._is_loaded()  # where launchd says no, nothing is left behind
        self._log.parent.mkdir(parents=True, exist_ok=True)  # launchd starts nothing whose log cannot be opened
        is_new = put(self._plist, plist(wanted))
        if is_new and was_loaded:
            self._boot_out()  # a loaded job keeps its old definition, whatever its file says
        self.start()
        return (str(self._plist),) if is_new else ()

    def uninstall(self) -> tuple[str, ...]:
        code, _ = self._ask("print", self._target)
        if code not in _ELSEWHERE:  # over ssh, nothing is loaded that would have to end
            if code == NO_SERVICE and not self._plist.exists():
                return ()
            self._boot_out()
        return take_away((self._plist,))

    def start(self) -> None:
        self._check()
        if self._is_loaded():
            self._ctl("kickstart", self._target)  # runs it where it does not, and leaves it alone where it does
        else:
            self._boot_in()

    def stop(self) -> None:
        self._check()
        self._boot_out()

    def restart(self) -> None:
        self._check()
        if self._is_loaded():
            self._patiently("kickstart", "-k", self._target)
        else:
            self._boot_in()

    def state(self) -> State:
        code, _ = self._ask("print", self._target)
        known = {DONE: "loaded", NO_SERVICE: "not loaded"}
        return State(
            installed=self._plist.exists(),
            running=code == DONE,
            said=known.get(code) or f"launchctl ended with {code}: {_MEANS.get(code, 'unknown')}",
            files=(str(self._plist),) if self._plist.exists() else (),
            command=self._command(),
        )

    def _command(self) -> tuple[str, ...]:
        try:
            return tuple(map(str, plistlib.loads(self._plist.read_bytes())["ProgramArguments"]))
        except (OSError, ValueError, KeyError, TypeError, ExpatError, plistlib.InvalidFileException):
            return ()  # not there, or not as we wrote it

    def log(self, lines: int) -> list[str]:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - lines * 1024))
                return file.read().decode("utf-8", "replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise KeeperFailed(f"{self._log} cannot be read: {problem.strerror}") from problem

    def log_command(self, lines: int) -> list[str]:
        return ["tail", "-n", str(lines), "-F", str(self._log)]

    def _check(self) -> None:
        if not self._plist.exists():
            raise NotInstalled

    def _is_loaded(self) -> bool:
        code, printed = self._ask("print", self._target)
        if code in _MEANS:
            raise _failed(("print", self._target), code, printed)
        return code == DONE

    def _boot_in(self) -> None:
        """A 'disable' outlives every uninstall, so enable comes first; what is still leaving is waited for."""
        self._ctl("enable", self._target)
        give_up = time.monotonic() + self._bound_s
        while True:
            code, printed = self._ask("bootstrap", self._domain, str(self._plist))
            if code == DONE:
                # Some were left loaded and not started, whatever RunAtLoad says; one that runs is left alone.
                self._ask("kickstart", self._target)
                return
            if code in (EXISTS, ALREADY):
                self._boot_out()  # another was faster: with the definition of then
            elif code != STILL_LEAVING:
                raise _failed(("bootstrap", self._domain), code, printed)
            if time.monotonic() > give_up:
                raise _failed(("bootstrap", self._domain), code, printed)
            time.sleep(PAUSE_S)

    def _boot_out(self) -> None:
        """bootout ends before the job does, and may say so by 36: only `print` tells when it is gone."""
        code, printed = self._ask("bootout", self._target)
        if code not in (DONE, NO_PROCESS, NO_SERVICE, STILL_LEAVING, IN_PROGRESS):
            raise _failed(("bootout", self._target), code, printed)
        give_up = time.monotonic() + self._bound_s
        while self._is_loaded():
            if time.monotonic() > give_up:
                raise KeeperFailed(f"{LABEL} did not end in {self._bound_s:g} s; look at it: admit daemon status")
            time.sleep(PAUSE_S)

    def _ask(self, *words: str) -> tuple[int, str]:
        try:
            return actuator.answer((self._launchctl, *words), self._bound_s)
        except actuator.CannotStart as problem:
            raise KeeperFailed(str(problem)) from problem

    def _ctl(self, *words: str) -> None:
        code, printed = self._ask(*words)
        if code != DONE:
            raise _failed(words, code, printed)

    def _patiently(self, *words: str) -> None:
        give_up = time.monotonic() + self._bound_s
        while True:
            code, printed = self._ask(*words)
            if code == DONE:
                return
            if code not in _PASSING or time.monotonic() > give_up:
                raise _failed(words, code, printed)
            time.sleep(PAUSE_S)


def plist(wanted: Wanted) -> bytes:
    """The agent's property list: the template's settings, and what is this user's."""
    settings = plistlib.loads(template("launchd", "admit.plist"))
    environ = {**wanted.environ, "ADMIT_LOG": wanted.log, "ADMIT_SUPERVISOR": "launchd"}
    settings |= {
        "Label": LABEL,
        "ProgramArguments": wanted.command(),
        "EnvironmentVariables": environ,
        # What is said before the daemon opens its log itself, which it also keeps short.
        "StandardOutPath": wanted.log,
        "StandardErrorPath": wanted.log,
    }
    return plistlib.dumps(settings)


def _failed(words: tuple[str, ...], code: int, printed: str) -> KeeperFailed:
    said = " ".join(printed.split())[:300]
    means = f": {_MEANS[code]}" if code in _MEANS else ""
    return KeeperFailed(f"launchctl {' '.join(words)} ended with {code}{means}" + (f" ({said})" if said else ""))
