"""keeper: keeps the folder within its bounds: looks, asks the rules of room.py, looks again, deletes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from admit_sdk.cache import references, room
from admit_sdk.cache.errors import InUse, NotCached, TooLarge
from admit_sdk.cache.folder import FULL, Folder, write_note
from admit_sdk.cache.room import Fits, Never, Victim
from admit_sdk.cache.terms import CachedFile, Contents, Leftover
from admitd.core.units import show_amount

_BUSIEST: Final = 3


class Keeper:
    """The bounds of one folder. `max_bytes` None: a quarter of the free disk, as it is each time."""

    def __init__(self, folder: Folder, max_bytes: int | None, spare_bytes: int, idle_s: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._spare_bytes = spare_bytes
        self._idle_s = idle_s

    def contents(self) -> Contents:
        """What is there now. Raises CacheUnusable."""
        with self._folder.lock():
            return self._look()

    def promise(self, sha256: str, name: str, done_bytes: int, note: dict[str, Any]) -> str | None:
        """Promise `total_bytes` of `note` to a download that runs, and write the note down; what has to go for it goes.

        None where it is promised, else why not now. Raises TooLarge, OSError.
        """
        total_bytes: int = note["total_bytes"]
        with self._folder.lock():
            contents = self._without(sha256, self._look())
            answer = room.make_room(contents, total_bytes, total_bytes - done_bytes)
            if isinstance(answer, Fits):
                gone = sum(each.size_bytes for each in answer.victims if self._folder.remove(each))
                if gone < sum(each.size_bytes for each in answer.victims):
                    return "a file that was to go has just come into use"
                try:
                    write_note(self._folder.part_note(sha256), note)
                except OSError as problem:
                    if problem.errno not in FULL:
                        raise
                    return "the disk is full"
                return None
        size = show_amount(total_bytes)
        if isinstance(answer, Never):
            raise TooLarge(
                f"{name} has {size}, and the cache may hold {show_amount(contents.max_bytes)} in all. Give it more, if "
                "the disk has it: ADMIT_MODEL_CACHE_MAX=50GiB",
                total_bytes,
                contents.max_bytes,
            )
        of = "on the disk" if answer.disk else f"within the cache's {show_amount(contents.max_bytes)}"
        return f"{show_amount(answer.short_bytes)} are missing {of}, and {_what_stays(contents)}"

    def collect(self, now: float | None = None, *, only_look: bool = False) -> tuple[Victim, ...]:
        """Remove what nobody has used for too long, and what is beyond the bounds; what went, or would go."""
        with self._folder.lock():
            victims = room.collect(self._look(), time.time() if now is None else now, self._idle_s)
            if only_look:
                return victims
            self._folder.sweep()
            return tuple(each for each in victims if self._folder.remove(each))

    def evict(self, sha256: str) -> tuple[Victim, ...]:
        """Remove one file and what is left of its download. Raises NotCached, InUse."""
        with self._folder.lock():
            contents = self._look()
            found: list[Victim] = [each for each in contents.files if each.sha256 == sha256]
            found += [each for each in contents.downloads if each.sha256 == sha256]
            if not found:
                raise NotCached(f"nothing with SHA-256 {sha256} is in the cache; see what is: admit cache status")
            for each in found:
                if isinstance(each, Leftover) and each.runs:
                    raise InUse(f"{each.name} is being downloaded; end that first")
                if isinstance(each, CachedFile) and each.in_use:
                    raise InUse(f"{each.name} stays, it is used by {_users(each)}; end that first")
            return tuple(each for each in found if self._folder.remove(each))

    def max_bytes(self) -> int:
        """How much the cache may hold."""
        return self.contents().max_bytes

    def _look(self) -> Contents:
        """Under the lock."""
        files = self._folder.list_files(references.living(self._folder))
        downloads = self._folder.list_downloads()
        free = self._folder.free_bytes()
        there = sum(each.size_bytes for each in files) + sum(each.size_bytes for each in downloads)
        most = room.max_by_default(free, there) if self._max_bytes is None else self._max_bytes
        return Contents(files, downloads, most, free, self._spare_bytes)

    @staticmethod
    def _without(sha256: str, contents: Contents) -> Contents:
        others = tuple(each for each in contents.downloads if each.sha256 != sha256)
        return Contents(contents.files, others, contents.max_bytes, contents.free_bytes, contents.spare_bytes)


def default_folder(environ: Any, home: str, platform: str) -> Path:
    """The folder that a user's apps share. On macOS among the caches, which Time Machine leaves out."""
    if platform == "darwin":
        return Path(home, "Library", "Caches", "admit", "models")
    named = environ.get("XDG_CACHE_HOME", "")
    return Path(named if named.startswith("/") else f"{home}/.cache", "admit", "models")


def _what_stays(contents: Contents) -> str:
    """Why no more may go, with who uses the largest."""
    used = sorted((each for each in contents.files if each.in_use), key=lambda each: -each.size_bytes)
    running = sum(each.runs for each in contents.downloads)
    parts = [f"{each.name} ({show_amount(each.size_bytes)}) is used by {_users(each)}" for each in used[:_BUSIEST]]
    if len(used) > _BUSIEST:
        parts.append(f"{len(used) - _BUSIEST} more are in use")
    if running:
        parts.append(f"{running} more are being downloaded")
    return "; ".join(parts) or "nothing of the cache could still go"


def _users(file: CachedFile) -> str:
    users = ", ".join(f"{each.app} (pid {each.pid})" for each in file.references[:_BUSIEST])
    if len(file.references) > _BUSIEST:
        users += f" and {len(file.references) - _BUSIEST} more"
    return users or "a process that has it open"
