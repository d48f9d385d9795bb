"""folder: the cache on disk: where things lie, the lock over them, how a file becomes visible, how it goes.

    files/SHA256            complete and verified, never written again; its mtime is its last use
    files/SHA256.json       what is said of it: name, origin, size
    downloads/SHA256.part   what has come so far; .json says of what, .lock is held by the one who writes
    references/...          one file for each use by an app; see references.py
    references/lock         held while anything here appears or goes, and never while anything is downloaded
    references/collected    its mtime is when somebody looked last for what has been idle for too long

There is no index that could be wrong: the folder is the index, read anew each time. A file gets its name in files/ by
one rename, once all of it is verified and on the disk, so nothing half-written is ever there to be found.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from admit_sdk.cache.errors import CacheUnusable
from admit_sdk.cache.opened import is_opened
from admit_sdk.cache.terms import CachedFile, Leftover, Reference
from admitd.machinelock import Busy, MachineLock, NotRecorded
from admitd.places import UnsafePlace, make_private

LOCK_WAIT_S: Final = 60.0
"""Held for milliseconds, or for as long as it takes to unlink some very large files."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_KEY: Final = re.compile(r"[0-9a-f]{64}\Z")
_NOTE_MAX: Final = 65_536


class Folder:
    """The cache at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.downloads = root / "downloads"
        self.references = root / "references"
        self._lock = MachineLock(self.references / "lock", self.prepare)

    def prepare(self) -> None:
        """Make the folders, for their owner alone. A root that was there before may be looked into by others, and stays
        as it is. Raises CacheUnusable."""
        elsewhere = "or name another folder: ADMIT_MODEL_CACHE"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.root.stat()
            if found.st_uid != os.getuid():
                raise CacheUnusable(f"{self.root} belongs to uid {found.st_uid}; it must be yours; {elsewhere}")
            if found.st_mode & 0o022:
                quoted = shlex.quote(str(self.root))
                raise CacheUnusable(f"others may write to {self.root}; run: chmod go-w {quoted}; {elsewhere}")
            for each in (self.files, self.downloads, self.references):
                make_private(str(each))
        except OSError as problem:
            raise CacheUnusable(f"{self.root} cannot be made: {problem.strerror}; {elsewhere}") from problem
        except UnsafePlace as problem:
            raise CacheUnusable(f"{problem}; {elsewhere}") from problem

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the cache's lock. Raises CacheUnusable."""
        self.prepare()
        try:
            with self._lock.hold(LOCK_WAIT_S):
                yield
        except (NotRecorded, Busy) as problem:
            raise CacheUnusable(str(problem)) from problem
        except OSError as problem:
            raise CacheUnusable(f"{problem.filename or self.root} cannot be used: {problem.strerror}") from problem

    @contextlib.contextmanager
    def download_lock(self, sha256: str, wait_s: float) -> Iterator[None]:
        """Hold the lock of one download. Raises Busy where another holds it for `wait_s`; CacheUnusable."""
        lock = MachineLock(self.downloads / f"{sha256}.lock", self.prepare)
        try:
            with lock.hold(wait_s):
                yield
        except NotRecorded as problem:
            raise CacheUnusable(str(problem)) from problem

    def file(self, sha256: str) -> Path:
        return self.files / sha256

    def part(self, sha256: str) -> Path:
        return self.downloads / f"{sha256}.part"

    def part_note(self, sha256: str) -> Path:
        return self.downloads / f"{sha256}.json"

    def publish(self, sha256: str, name: str, origin: str, size_bytes: int) -> None:
        """Under the lock, and by the one who holds the download's: a verified part becomes a file of the cache."""
        note = {"name": name, "origin": origin, "size_bytes": size_bytes}
        try:
            write_note(self.files / f"{sha256}.json", note)
        except OSError as problem:
            if problem.errno not in FULL:  # the cache does without a note, rather than without the file
                raise
        os.rename(self.part(sha256), self.file(sha256))
        os.chmod(self.file(sha256), 0o444)
        _settle(self.files)
        self.forget_download(sha256)

    def forget_download(self, sha256: str) -> None:
        """By the one who holds the download's lock: remove what is left of it, its lock last."""
        for path in (self.part(sha256), self.part_note(sha256), self.downloads / f"{sha256}.lock"):
            path.unlink(missing_ok=True)

    def remove(self, victim: CachedFile | Leftover) -> bool:
        """Under the lock: remove a file, or what is left of a download; False where someone has begun to use it."""
        if isinstance(victim, CachedFile):
            if is_opened(self.file(victim.sha256)):
                return False
            self.file(victim.sha256).unlink(missing_ok=True)
            (self.files / f"{victim.sha256}.json").unlink(missing_ok=True)
            return True
        try:
            with self.download_lock(victim.sha256, 0.0):
                self.forget_download(victim.sha256)
        except Busy:
            return False
        return True

    def sweep(self) -> None:
        """Under the lock: remove what a crash has left that is neither a file nor a download."""
        for folder in (self.files, self.downloads, self.references):
            for path in folder.glob(".*"):
                # Notes are written under the lock, so nobody is writing this one; whoever makes a lock makes it again.
                path.unlink(missing_ok=True)
        for note in self.files.glob("*.json"):
            if not note.with_suffix("").exists():
                note.unlink(missing_ok=True)
        for lock in self.downloads.glob("*.lock"):
            if _KEY.match(lock.stem) and not self.part(lock.stem).exists():
                with contextlib.suppress(Busy), self.download_lock(lock.stem, 0.0):
                    self.forget_download(lock.stem)

    def collected_at(self) -> float | None:
        """When somebody looked last for what is idle; None: that is not known."""
        try:
            return (self.references / "collected").lstat().st_mtime
        except OSError:
            return None

    def collected_now(self) -> None:
        """Under the lock: somebody looks now."""
        with contextlib.suppress(OSError):  # on a full disk above all what is idle has to go
            (self.references / "collected").touch(mode=0o600)

    def used_now(self, sha256: str) -> None:
        """Its last use is now."""
        with contextlib.suppress(OSError):
            os.utime(self.file(sha256))

    def list_files(self, living: dict[str, tuple[Reference, ...]]) -> tuple[CachedFile, ...]:
        """Under the lock: the complete files. `living`: the references that stand."""
        found = []
        for path, seen in _regular_files(self.files, ""):
            note = read_note(path.with_suffix(".json"))
            references = living.get(path.name, ())
            found.append(
                CachedFile(
                    path.name,
                    _text(note, "name") or path.name[:12],
                    _text(note, "origin"),
                    seen.st_size,
                    seen.st_mtime,
                    references,
                    not references and is_opened(path),
                )
            )
        return tuple(sorted(found, key=lambda each: (each.name, each.sha256)))

    def list_downloads(self) -> tuple[Leftover, ...]:
        """Under the lock: the downloads, running or broken off. One with no byte yet shows if it was promised room."""
        keys = {path.stem: seen for path, seen in _regular_files(self.downloads, ".json")}
        keys |= {path.stem: seen for path, seen in _regular_files(self.downloads, ".part")}
        found = []
        for sha256, seen in sorted(keys.items()):
            note = read_note(self.part_note(sha256))
            total = note.get("total_bytes")
            found.append(
                Leftover(
                    sha256,
                    _text(note, "name") or sha256[:12],
                    _text(note, "origin"),
                    _size(self.part(sha256)),
                    total if isinstance(total, int) and total >= 0 else None,
                    seen.st_mtime,
                    self._is_downloading(sha256),
                )
            )
        return tuple(found)

    def free_bytes(self) -> int:
        """What its user may still write to its disk."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def is_whole(self, sha256: str) -> bool:
        """Whether the file is there, and as large as it was when it was verified."""
        try:
            seen = self.file(sha256).lstat()
        except OSError:
            return False
        size = read_note(self.files / f"{sha256}.json").get("size_bytes", seen.st_size)
        return stat.S_ISREG(seen.st_mode) and seen.st_size == size

    def _is_downloading(self, sha256: str) -> bool:
        if not (self.downloads / f"{sha256}.lock").exists():
            return False
        try:
            with self.download_lock(sha256, 0.0):
                return False
        except Busy:
            return True


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write a small JSON file whole or not at all. Raises OSError."""
    making = path.with_name(f".{secrets.token_hex(8)}")
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, json.dumps(note).encode())
            to_disk(fd)
        finally:
            os.close(fd)
        os.rename(making, path)
    except BaseException:
        making.unlink(missing_ok=True)
        raise


def read_note(path: Path) -> dict[str, Any]:
    """What a note says; nothing where it is not there, or damaged: the cache does without."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            note = json.loads(os.read(fd, _NOTE_MAX))
        finally:
            os.close(fd)
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, or raise OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def to_disk(fd: int) -> None:
    """What was written survives a power cut from here on. On macOS fsync(2) stops at the drive's own cache."""
    full_fsync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_fsync is not None:
        with contextlib.suppress(OSError):  # network file systems do not know it
            fcntl.fcntl(fd, full_fsync)
            return
    os.fsync(fd)


def _settle(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        to_disk(fd)
    finally:
        os.close(fd)


def _regular_files(folder: Path, suffix: str) -> list[tuple[Path, os.stat_result]]:
    """The regular files of `folder` that are called a hash and `suffix`; anything else there is not ours."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix) and _KEY.match(entry.name.removesuffix(suffix)):
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(seen.st_mode):
                        found.append((Path(entry.path), seen))
    return found


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _text(note: dict[str, Any], key: str) -> str:
    value = note.get(key)
    return value if isinstance(value, str) and value.isprintable() else ""
