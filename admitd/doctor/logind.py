"""logind: whether systemd-logind removes what a user has in shared memory when he logs out (logind.conf, RemoveIPC=).

It removes every file of his below /dev/shm, those in folders included, once his last session has ended: whatever of his
runs on outside of his sessions loses its reservations. Spared are system users, and who lingers: he is never wholly
logged out (systemd, src/login/logind-user.c: user_finalize, user_may_gc; src/shared/clean-ipc.c).
"""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Final

from admitd.doctor.finding import Logout

SYSTEM_UID_MAX: Final = 999
"""What logind was built with on every common distribution (SYS_UID_MAX of login.defs, as it was then)."""
SHARED: Final = "dev/shm"
RUNS: Final = "run/systemd/seats"
"""logind makes it at its start."""
LINGER: Final = "var/lib/systemd/linger"
FOLDERS: Final = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd", "lib/systemd")
"""Where its configuration is, the first before the others (logind.conf(5))."""
_YES: Final = frozenset({"1", "yes", "y", "true", "t", "on"})
_NO: Final = frozenset({"0", "no", "n", "false", "f", "off"})


def removes(folder: Path, uid: int, root: Path = Path("/")) -> Logout | None:
    """Whose records in `folder` it removes, and what says so; None where it does not. `root`: of the file system."""
    shared = (root / SHARED).resolve()
    if uid <= SYSTEM_UID_MAX or not folder.resolve().is_relative_to(shared) or not (root / RUNS).is_dir():
        return None
    by = _decided_by(root)
    user = _name(uid)
    return None if by is None or (root / LINGER / user).exists() else Logout(user, by)


def _decided_by(root: Path) -> str | None:
    """What says that it removes; None where it does not. Files that cannot be read say nothing."""
    by: str | None = "its default"
    for path in _files(root):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        section = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = line
            key, equals, value = (part.strip() for part in line.partition("="))
            if section != "[Login]" or key != "RemoveIPC" or not equals:
                continue
            if value.lower() in _YES:
                by = f"/{path.relative_to(root)}"
            elif value.lower() in _NO:
                by = None
    return by


def _files(root: Path) -> list[Path]:
    """The files of its configuration, the last word last: one logind.conf, then the drop-ins by their names; of two of
    the same name only the first is read, also where that is empty, or leads to /dev/null."""
    folders = [root / each for each in FOLDERS]
    main = next((each / "logind.conf" for each in folders if (each / "logind.conf").exists()), None)
    added: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / "logind.conf.d").glob("*.conf"):
            added.setdefault(path.name, path)
    return [*([main] if main is not None else []), *(added[name] for name in sorted(added))]


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
