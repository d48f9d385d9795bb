"""ownfile: reads a file that only its owner can have written, as ssh reads a key.

capacity.yaml holds commands that are run as the user: whoever may write it, or put another one in its place, could run
anything.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from pathlib import Path

from admitd.problem import ConfigError, Problem


def read(path: Path, most_bytes: int) -> bytes:
    """Up to `most_bytes` + 1 bytes of `path`, so that the caller sees when there are more. ConfigError otherwise."""
    file = str(path)
    try:
        # O_NONBLOCK: a FIFO without a writer must not hold anyone up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        instead = f"look at it: ls -l {shlex.quote(file)}"
        raise ConfigError([Problem(file, "", 0, f"cannot be read ({error.strerror})", instead)]) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError([Problem(file, "", 0, "is not a regular file", "write the path of a file")])
        problems = [Problem(file, "", 0, *fault) for fault in _faults(path, found)]
        if problems:
            raise ConfigError(problems)
        return _read(descriptor, most_bytes + 1)
    except OSError as error:
        raise ConfigError([Problem(file, "", 0, f"cannot be read ({error.strerror})", "try again")]) from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, most_bytes: int) -> bytes:
    data = b""
    while len(data) < most_bytes and (more := os.read(descriptor, most_bytes - len(data))):
        data += more
    return data


def _faults(path: Path, found: os.stat_result) -> list[tuple[str, str]]:
    faults = []
    fault = loose_file(found, os.geteuid(), path)
    if fault is not None:
        faults.append(fault)
    for folder, mode in folders(path).items():
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            what = f"lies in {folder}, where anyone may put another file in its place (mode {stat.S_IMODE(mode):04o})"
            faults.append((what, f"run: chmod o-w {shlex.quote(str(folder))}"))
    return faults


def folders(path: Path) -> dict[Path, int]:
    """The folders where another file could take its place, by its name or behind a link; and their modes."""
    found = {}
    for folder in (path.absolute().parent, Path(os.path.realpath(path)).parent):
        with contextlib.suppress(OSError):
            found[folder] = folder.stat().st_mode
    return found


def loose_file(found: os.stat_result, euid: int, path: Path) -> tuple[str, str] | None:
    """What is wrong with who may write the file, and the command that mends it."""
    quoted = shlex.quote(str(path))
    if found.st_uid not in (0, euid):
        what = f"belongs to uid {found.st_uid}, who is neither you (uid {euid}) nor root, and could change it"
        return what, f"run, if you trust what is in it: sudo chown {euid} {quoted}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "anyone" if found.st_mode & stat.S_IWOTH else f"the group {found.st_gid}"
        return f"may be written by {who} (mode {stat.S_IMODE(found.st_mode):04o})", f"run: chmod go-w {quoted}"
    return None
