"""keeper: keeps the folder within its bounds: looks, asks the rules of room.py, looks again, deletes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from admit_sdk.cache import references, room
from admit_sdk.cache.errors import InUse, NotCached, TooLarge
from admit_sdk.cache.folder import FULL, Folder, write_note
from admit_sdk.cache.room import Fits, Never, Victim
from admit_sdk.cache.terms import CachedFile, Contents, Leftover
from admitd.core.units import parse_amount, show_amount, write_amount

COLLECT_EVERY_S: Final = 86_400.0
"""How often those look for what is idle who want no room: they have a file that was there."""
_BUSIEST: Final = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a download needs room for: `total_bytes`, of which `done_bytes` are written already, and `beside_bytes` of
    other files without which it is of no use."""

    sha256: str
    name: str
    origin: str
    total_bytes: int
    done_bytes: int
    beside_bytes: int = 0


class Keeper:
    """The bounds of one folder. `max_bytes` None: a quarter of the free disk, as it is each time. `by_app`: whether the
    app gave it, and no setting of the user's."""

    def __init__(self, folder: Folder, max_bytes: int | None, by_app: bool, spare_bytes: int, idle_s: float) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._by_app = by_app
        self._spare_bytes = spare_bytes
        self._idle_s = idle_s

    def contents(self) -> Contents:
        """What is there now. Raises CacheUnusable."""
        with self._folder.lock():
            return self._look()

    def why_no_room(self, wanted: Wanted) -> str | None:
        """None where there is room for a download, or would be once others are gone; nothing goes. Raises TooLarge."""
        with self._folder.lock():
            return self._answer(wanted)[1]

    def promise(self, wanted: Wanted, etag: str | None) -> str | None:
        """Promise a running download its room, and write that down; what has to go for it goes.

        None where it is promised, else why not now. Raises TooLarge.
        """
        with self._folder.lock():
            victims, why = self._answer(wanted)
            if why is not None:
                return why
            if not all(self._folder.remove(each) for each in victims):
                return "a file that was to go has just come into use"
            note = {
                "name": wanted.name,
                "origin": wanted.origin,
                "total_bytes": wanted.total_bytes,
                "etag": etag,
            }
            try:
                write_note(self._folder.part_note(wanted.sha256), note)
            except OSError as problem:
                if problem.errno not in FULL:
                    raise
                return "the disk is full"
            return None

    def _answer(self, wanted: Wanted) -> tuple[tuple[Victim, ...], str | None]:
        """Under the lock: who would have to go for a download, or why that would not do."""
        contents = self._without(wanted.sha256, self._look())
        unwritten = wanted.total_bytes - wanted.done_bytes
        answer = room.make_room(contents, wanted.total_bytes, unwritten, wanted.beside_bytes)
        if isinstance(answer, Fits):
            return answer.victims, None
        if isinstance(answer, Never):
            raise self._too_large(wanted, contents.max_bytes)
        of = "on the disk" if answer.disk else f"within the cache's {show_amount(contents.max_bytes)}"
        return (), f"{show_amount(answer.short_bytes)} are missing {of}, and {_what_stays(contents)}"

    def _too_large(self, wanted: Wanted, max_bytes: int) -> TooLarge:
        needed = wanted.total_bytes + wanted.beside_bytes
        enough = write_amount(needed)
        beside = f" and the other files of its model {show_amount(wanted.beside_bytes)}" if wanted.beside_bytes else ""
        remedy = f"ADMIT_MODEL_CACHE_MAX={enough}"
        if self._by_app:
            remedy = f"max_bytes={parse_amount(enough)} ({enough}) or more where the app makes its ModelCache"
        return TooLarge(
            f"{wanted.name} has {show_amount(wanted.total_bytes)}{beside}, and the cache may hold "
            f"{show_amount(max_bytes)} in all. Give it more, if the disk has it: {remedy}",
            needed,
            max_bytes,
        )

    def collect(self, now: float | None = None, *, only_look: bool = False) -> tuple[Victim, ...]:
        """Remove what nobody has used for too long, and what is beyond the bounds; what went, or would go."""
        with self._folder.lock():
            victims = room.collect(self._look(), time.time() if now is None else now, self._idle_s)
            if only_look:
                return victims
            self._folder.collected_now()
            self._folder.sweep()
            return tuple(each for each in victims if self._folder.remove(each))

    def is_due(self) -> bool:
        """Whether nobody has looked for what is idle for a day. One stat; a clock that was set back makes it due."""
        at = self._folder.collected_at()
        return at is None or not 0 <= time.time() - at < COLLECT_EVERY_S

    def collect_idle(self) -> tuple[Victim, ...]:
        """Remove what nobody has used for too long, where that is due; nothing for the bounds: nobody wants room."""
        with self._folder.lock():
            if not self.is_due():
                return ()
            self._folder.collected_now()
            victims = room.gone_idle(self._look(), time.time(), self._idle_s)
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
                    raise InUse(f"{each.name} stays, it is used by {each.users}; end that first")
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


def _what_stays(contents: Contents) -> str:
    """Why no more may go, with who uses the largest."""
    used = sorted((each for each in contents.files if each.in_use), key=lambda each: -each.size_bytes)
    running = sum(each.runs for each in contents.downloads)
    parts = [f"{each.name} ({show_amount(each.size_bytes)}) is used by {each.users}" for each in used[:_BUSIEST]]
    if len(used) > _BUSIEST:
        parts.append(f"{len(used) - _BUSIEST} more are in use")
    if running:
        parts.append(f"{running} more are being downloaded")
    return "; ".join(parts) or "nothing of the cache could still go"
