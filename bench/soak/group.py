"""group: a memory cgroup of our own, in which the soak's services run out of memory and nobody else does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measuring import Skipped

ROOTS: Final = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Where memory is limited: v1, then v2."""
PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Files:
    """What one version of cgroups calls things, below the folder of a group."""

    version: str
    limit: str
    swap: str
    used: str
    most: str
    kills: str
    anonymous: str
    inactive: str


_V1: Final = _Files(
    "v1",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
    "total_rss",
    "total_inactive_file",
)
_V2: Final = _Files(
    "v2", "memory.max", "memory.swap.max", "memory.current", "memory.peak", "memory.events", "anon", "inactive_file"
)


@dataclass(frozen=True, slots=True)
class Held:
    """What the group holds, in bytes: all of it; anonymous memory; file pages that the kernel would give up first."""

    used: int
    anonymous: int
    inactive: int


class Group:
    """One group, with a limit."""

    def __init__(self, path: Path, files: _Files, limit: int) -> None:
        self._path = path
        self._files = files
        self.limit = limit

    @property
    def path(self) -> Path:
        return self._path

    @property
    def version(self) -> str:
        return self._files.version

    @property
    def members(self) -> Path:
        """The file into which a process writes 0 to become a member."""
        return self._path / "cgroup.procs"

    def held(self) -> Held:
        stat = _fields(self._path / "memory.stat")
        used = int((self._path / self._files.used).read_text())
        return Held(used, stat.get(self._files.anonymous, 0), stat.get(self._files.inactive, 0))

    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        return _fields(self._path / self._files.kills)["oom_kill"]

    def most(self) -> int | None:
        """The most that it ever held, in bytes; None where this kernel does not say (v2 before 5.19)."""
        try:
            return int((self._path / self._files.most).read_text())
        except OSError:
            return None


@contextlib.contextmanager
def group(limit: int) -> Iterator[Group]:
    """A group of so many bytes, gone at the end. Raises Skipped, with the reason, where none can be made."""
    made = _make(limit)
    try:
        yield made
    finally:
        _remove(made.path)


def opened(path: Path, limit: int) -> Group:
    """A group that is there already."""
    return Group(path, _V1 if (path / _V1.limit).exists() else _V2, limit)


def _make(limit: int) -> Group:
    for root, files in zip(ROOTS, (_V1, _V2), strict=True):
        if files is _V1 and not (root / files.limit).exists():
            continue
        if files is _V2 and not (root / "cgroup.controllers").exists():
            continue
        return _made(root, files, limit)
    raise Skipped("no memory cgroup can be made: no cgroup file system is mounted at /sys/fs/cgroup")


def _made(root: Path, files: _Files, limit: int) -> Group:
    path = root / f"admit-soak-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as problem:
        raise Skipped(f"no memory cgroup can be made below {root}: {problem.strerror}") from None
    try:
        (path / files.limit).write_text(str(limit))
        with contextlib.suppress(OSError):  # a kernel that keeps no account of swap has no such file
            (path / files.swap).write_text(str(limit) if files is _V1 else "0")
    except OSError as problem:
        path.rmdir()
        raise Skipped(f"no memory can be limited below {root}: {problem.strerror}") from None
    return Group(path, files, limit)


def _remove(path: Path) -> None:
    """Its processes are gone or about to be: the kernel lets the folder go when the last one is."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def _fields(path: Path) -> Mapping[str, int]:
    """Lines of a name and a number."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
