"""wanted: what is to be kept running, and what every supervisor must be able to do with it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import admitd
from admitd.core.terms import Command, Service

ALWAYS_IN_PATH: Final = (
    *(("/opt/homebrew/bin",) if sys.platform == "darwin" else ()),
    *("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"),
)
CARRIED: Final = (
    "ADMIT_STATE_DIR",
    "ADMIT_PROCESS_READER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "OLLAMA_MODELS",
    "OLLAMA_HOST",
    "DOCKER_HOST",
    "LANG",
)
"""What of the shell's environment decides where files are found, beside PATH, and which server a program asks: the
daemon, and what it loads, must find the same ones. Nothing that may be a secret: the files that hold it are none."""
_PASSING: Final = re.compile(r"/uv/(?:archive|builds|environments)-v\d+/|/pipx/\.cache/|/\.cache/pipx/")
_PRIVILEGED: Final = re.compile(r"(?:^|[\s/;|&(])(sudo|doas|pkexec|su|podman|newuidmap)(?=\s|$)")


_GUARDED: Final = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents")
"""Folders of a user's that macOS gives to no background program, unless he grants it (TCC)."""


class KeeperFailed(Exception):
    """The supervisor would not do it; the text says what it said, and what to do."""


class NoSupervisor(Exception):
    """There is no supervisor that the daemon could be installed under."""


class NotInstalled(Exception):
    """What is to be started or stopped was not installed."""

    def __str__(self) -> str:
        return "the daemon is not installed as a service; run: admit daemon install"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The daemon as it is to run. `program`: the absolute path of `admit`; `config`: the file to go by, where it is not
    the one found by default; `unix`: its socket; `hardened`: whether setuid programs are out of its reach."""

    program: str
    port: int
    config: str | None
    unix: str | None
    log: str
    environ: Mapping[str, str]
    hardened: bool = True

    def command(self) -> list[str]:
        """The command line that the supervisor starts."""
        named = [] if self.config is None else ["--config", self.config]
        return [self.program, "daemon", "run", "--port", str(self.port), *named]


@dataclass(frozen=True, slots=True)
class State:
    """How it stands. `said`: the supervisor's own words; `restarts`: how often it had to start it anew; `at_boot`:
    whether it runs before anybody logs in; `command`: what it was installed to run, and `hardened` how; `failed`: it
    ended, and not because it was stopped; `held`: it does not run, and whoever asks on its port starts it."""

    installed: bool
    running: bool
    said: str
    pid: int | None = None
    restarts: int | None = None
    at_boot: bool = False
    files: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    hardened: bool = True
    failed: bool = False
    held: bool = False

    @property
    def port(self) -> int | None:
        """The port that it was installed for."""
        text = self._option("--port")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    @property
    def config(self) -> str | None:
        """The file that it was installed for; None: whichever is found."""
        return self._option("--config")

    def holds(self, port: int) -> bool:
        """Whether asking on this port would start it."""
        return self.held and self.port == port

    def _option(self, name: str) -> str | None:
        at = self.command.index(name) + 1 if name in self.command else len(self.command)
        return self.command[at] if at < len(self.command) else None


class Keeper(Protocol):
    """One system's supervisor. All raise KeeperFailed, and NotInstalled where there is nothing to act on."""

    name: str

    def install(self, wanted: Wanted) -> tuple[str, ...]:
        """Write its files, and have it run by them now and from now on; which files were written."""

    def uninstall(self) -> tuple[str, ...]:
        """End it and take its files away; which ones."""

    def start(self) -> None:
        """Run it, where it does not."""

    def stop(self) -> None:
        """End it; it runs again after the next login."""

    def restart(self) -> None:
        """End it and run it again."""

    def state(self) -> State:
        """How it stands."""

    def log(self, lines: int) -> list[str]:
        """The last lines that it said."""

    def log_command(self, lines: int) -> list[str]:
        """The command that shows them, and goes on with what comes."""


def template(folder: str, name: str) -> bytes:
    """A template, from the installed package or, in a checkout, from beside it."""
    package = Path(admitd.__file__).parent
    beside = package / folder / name
    return (beside if beside.is_file() else package.parent / folder / name).read_bytes()


def put(path: Path, content: bytes) -> bool:
    """Have a file hold this, whole or not at all; whether it had to be written. Raises KeeperFailed."""
    try:
        if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as making:
            try:
                making.write(content)
                making.flush()
                os.fsync(making.fileno())
                os.fchmod(making.fileno(), 0o644)  # launchd refuses what others may write to, and 0600 gains nothing
                os.replace(making.name, path)
            except BaseException:
                os.unlink(making.name)
                raise
    except OSError as problem:
        raise KeeperFailed(f"{path} cannot be written: {problem.strerror}") from problem
    return True


def take_away(paths: Iterable[Path]) -> tuple[str, ...]:
    """Remove files; those that were there. Raises KeeperFailed."""
    gone = []
    for path in paths:
        try:
            path.unlink()
            gone.append(str(path))
        except FileNotFoundError:
            pass
        except OSError as problem:
            raise KeeperFailed(f"{path} cannot be removed: {problem.strerror}") from problem
    return tuple(gone)


def search_path(written: str) -> str:
    """The PATH that the daemon's commands are found in: the shell's own folders, then those that every system has."""
    folders = [folder for folder in written.split(":") if folder.startswith("/")]
    return ":".join(dict.fromkeys([*folders, *ALWAYS_IN_PATH]))


def carried(environ: Mapping[str, str], home: str) -> dict[str, str]:
    """What of the shell's environment the daemon gets. HOME is told: nobody has seen whether launchd does, and what
    loads models looks for them below it."""
    return {
        "HOME": home,
        "PATH": search_path(environ.get("PATH", "")),
        **{name: environ[name] for name in CARRIED if environ.get(name)},
    }


def program(argv0: str, environ: Mapping[str, str], prefix: str) -> str:
    """The path by which `admit` will be found tomorrow: a link in PATH, which upgrades keep, before what it leads to.

    Raises KeeperFailed where it would not be there: uvx and pipx run from a cache that is emptied.
    """
    own = os.path.join(prefix, "bin", "admit")
    known = [os.path.abspath(argv0)] if os.path.basename(argv0) == "admit" and os.path.isfile(argv0) else []
    folders = [folder for folder in environ.get("PATH", "").split(":") if folder.startswith("/")]
    for candidate in [*(os.path.join(folder, "admit") for folder in folders), *known, own]:
        with contextlib.suppress(OSError):
            if os.access(candidate, os.X_OK) and os.path.samefile(candidate, known[0] if known else own):
                if _PASSING.search(os.path.realpath(candidate)):
                    raise KeeperFailed(
                        f"{candidate} lies in a cache, and may be gone tomorrow; "
                        "install admit first, by uv tool, pipx or pip"
                    )
                return candidate
    raise KeeperFailed(f"there is no program {own}; install admit first, by uv tool, pipx or pip")


def out_of_an_agents_reach(paths: Iterable[str], home: str) -> tuple[str, ...]:
    """Which of these lie where a launchd agent may not read, though a terminal may."""
    guarded = [os.path.join(os.path.realpath(home), folder, "").casefold() for folder in _GUARDED]
    return tuple(path for path in paths if os.path.realpath(path).casefold().startswith(tuple(guarded)))


def needs_privilege(services: Mapping[str, Service]) -> dict[str, str]:
    """Services whose commands begin programs that gain rights, and which: a hardened daemon cannot start these."""
    found = {}
    for name, service in services.items():
        for command in (service.load_cmd, service.unload_cmd, service.loaded_check_cmd):
            seen = _PRIVILEGED.search(_text(command))
            if seen is not None:
                found[name] = seen[1]
                break
    return found


def _text(command: Command | None) -> str:
    return "" if command is None else command if isinstance(command, str) else " ".join(command)
