"""download: one file brought into the cache: asked for, written, hashed as it comes, gone on with, verified.

Whoever runs one holds the download's lock. What has come so far stays in downloads/ whatever happens, and the next
attempt, of this process or of another, reads it again and goes on from there; only what is known to be wrong is thrown
away. Room is promised under the cache's lock before the first byte is written.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Final

from admit_sdk.cache import remote
from admit_sdk.cache.errors import DownloadFailed, NoRoom, WrongContent
from admit_sdk.cache.folder import FULL, Folder, read_note, to_disk, write_all
from admit_sdk.cache.keeper import Keeper, Wanted
from admit_sdk.cache.manner import Manner
from admit_sdk.cache.remote import Answer, FromTheStart, Interrupted
from admit_sdk.cache.terms import Progress, Source, State
from admitd.core.units import show_amount

FIRST_PAUSE_S: Final = 0.5
"""After the first failure in a row; twice as long after each further one."""
LOOK_EVERY_S: Final = 1.0
"""How often it is looked again whether there is room now."""
_TELL_EVERY_S: Final = 0.1


class _NotWritten(Exception):
    """What came could not be written; `problem` says why."""

    def __init__(self, problem: OSError) -> None:
        super().__init__(problem)
        self.problem = problem


class Download:
    """One attempt to get `source` into downloads/, whole and verified; `run` once."""

    def __init__(self, folder: Folder, keeper: Keeper, source: Source, name: str, manner: Manner) -> None:
        self._folder = folder
        self._keeper = keeper
        self._source = source
        self._name = name
        self._manner = manner
        self._path: Path = folder.part(source.sha256)
        note = read_note(folder.part_note(source.sha256))
        same_origin = note.get("origin") == source.origin
        self._total = source.size_bytes
        noted = note.get("total_bytes")
        if self._total is None and same_origin and type(noted) is int and noted >= 0:
            self._total = noted
        self._etag: str | None = note["etag"] if same_origin and isinstance(note.get("etag"), str) else None
        self._fd = -1
        self._done = 0
        self._hash = hashlib.sha256()
        self._gone_on = False
        self._started_anew = 0
        self._paused_since_s: float | None = None
        self._furthest = 0
        self._failed = 0
        self._told_s = 0.0

    def run(self) -> int:
        """Download it; its size. Raises what errors.py lists, and OSError."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._read_again()
            self._gone_on = self._done > 0
            while not self._is_whole():
                self._manner.check()
                if self._total is not None:
                    self._wait_for_room(self._keeper.why_no_room(self._wanted()))
                try:
                    self._go_on()
                except FromTheStart:
                    self._start_anew()
                    self._count_failure(Interrupted("the server cannot go on from where the last attempt ended"))
                except Interrupted as interrupted:
                    self._count_failure(interrupted)
                except _NotWritten as failed:
                    self._disk_failed(failed.problem)
            self._settle()
            return self._done
        except BaseException:
            if not self._done:
                self._folder.forget_download(self._source.sha256)
            raise
        finally:
            os.close(self._fd)

    def _read_again(self) -> None:
        """Hash what an earlier attempt left: a hash cannot be gone on with, and a power cut may have left anything."""
        size = os.fstat(self._fd).st_size
        if self._total is not None and size > self._total:
            self._start_anew()
            return
        while data := os.pread(self._fd, remote.CHUNK_BYTES, self._done):
            self._hash.update(data)
            self._done += len(data)
            self._tell(State.CHECKING)
            self._manner.check()
        self._furthest = self._done

    def _start_anew(self) -> None:
        os.ftruncate(self._fd, 0)
        self._done = 0
        self._etag = None
        self._gone_on = False
        self._hash = hashlib.sha256()

    def _go_on(self) -> None:
        """Ask for the rest, and write it as it comes, until all is there or it breaks off (Interrupted)."""
        answer = remote.ask(
            self._source, self._manner.headers, self._done, self._etag, self._total, self._manner.stall_s
        )
        try:
            if answer.start != self._done:
                self._start_anew()
            self._settle_size(answer)
            # Only now, when it is sure that the file can be had, others may have to go for it.
            why = self._keeper.promise(self._wanted(), self._etag)
            if why is None:
                self._receive(answer)
        finally:
            answer.close()
        self._wait_for_room(why)

    def _settle_size(self, answer: Answer) -> None:
        """Now it is known how large it is."""
        said, declared = answer.total_bytes, self._source.size_bytes
        if said is None and self._total is None:
            raise DownloadFailed(
                f"{self._source.origin}: the server does not say how large it is; say it yourself: size_bytes"
            )
        if said is not None and declared is not None and said != declared:
            raise DownloadFailed(
                f"{self._source.origin} has {said} bytes by what its server says, not {declared}; look at the address"
            )
        self._total = self._total if said is None else said
        self._etag = answer.etag

    def _receive(self, answer: Answer) -> None:
        total = self._total or 0
        os.lseek(self._fd, self._done, os.SEEK_SET)
        self._tell(State.DOWNLOADING)
        while self._done < total:
            data = answer.read()[: total - self._done]
            if not data:
                raise Interrupted(f"it broke off after {self._done} of {total} bytes")
            before = os.lseek(self._fd, 0, os.SEEK_CUR)
            try:
                write_all(self._fd, data)
            except OSError as problem:
                raise _NotWritten(problem) from problem
            finally:
                # Also where the disk became full within: what is hashed is what was written, to the byte.
                written = os.lseek(self._fd, 0, os.SEEK_CUR) - before
                self._hash.update(data[:written])
                self._done += written
                self._paused_since_s = None if written else self._paused_since_s
            self._tell(State.DOWNLOADING, last=self._done == total)
            self._manner.check()

    def _is_whole(self) -> bool:
        """Whether it is what was asked for. All there and wrong, after it went on from something earlier: once more
        from the start. Wrong from the start: WrongContent."""
        found = self._hash.hexdigest()
        if found == self._source.sha256:
            return True
        if self._total is None or self._done < self._total:
            return False
        gone_on = self._gone_on
        self._start_anew()
        self._furthest = 0
        self._started_anew += 1
        if gone_on and self._started_anew < self._manner.tries:
            return False
        self._folder.part(self._source.sha256).unlink(missing_ok=True)
        self._folder.part_note(self._source.sha256).unlink(missing_ok=True)
        raise WrongContent(
            f"{self._source.origin} is not the file that was asked for: its SHA-256 is {found}, not "
            f"{self._source.sha256}. Nothing of it was kept; look at the address and the hash"
        )

    def _count_failure(self, interrupted: Interrupted) -> None:
        """Wait before the next attempt, longer each time; give up where none in a row brought a further byte."""
        if self._done > self._furthest:
            self._furthest, self._failed = self._done, 0
        self._failed += 1
        self._gone_on = self._done > 0
        if self._failed >= self._manner.tries:
            kept = f"{show_amount(self._done)} are kept, and the next attempt goes on from there"
            end = kept if self._done else "nothing of it was kept"
            raise DownloadFailed(f"{self._source.origin}: {interrupted}, {self._failed} times in a row; {end}")
        self._manner.sleep(max(interrupted.after_s, FIRST_PAUSE_S * 2 ** (self._failed - 1)))

    def _disk_failed(self, problem: OSError) -> None:
        """A full disk is waited for; what else the disk has to say ends the download."""
        if problem.errno not in FULL:
            raise DownloadFailed(
                f"{self._path} cannot be written: {problem.strerror}; {show_amount(self._done)} are kept, and the "
                "next attempt goes on from there"
            ) from problem
        self._gone_on = True
        self._wait_for_room("the disk is full")

    def _settle(self) -> None:
        """Bring it to the disk. Where that fails nobody can tell what is there, and reading it again would not: what
        is in memory looks right."""
        try:
            to_disk(self._fd)
        except OSError as problem:
            self._start_anew()
            raise DownloadFailed(
                f"{self._path} could not be brought to the disk: {problem.strerror}; nothing of it was kept"
            ) from problem

    def _wanted(self) -> Wanted:
        beside = self._manner.beside_bytes
        return Wanted(self._source.sha256, self._name, self._source.origin, self._total or 0, self._done, beside)

    def _wait_for_room(self, why: str | None) -> None:
        """Pause until there is room; `why` there is none. Raises NoRoom after `wait_s` without a byte; Stopped."""
        while why is not None:
            now = time.monotonic()
            self._paused_since_s = now if self._paused_since_s is None else self._paused_since_s
            self._manner.tell(Progress(State.PAUSED, self._done, self._total, why))
            left_s = LOOK_EVERY_S if self._manner.wait_s is None else self._paused_since_s + self._manner.wait_s - now
            if left_s <= 0:
                raise NoRoom(
                    f"no room for {self._name} ({show_amount(self._total or 0)}) within {self._manner.wait_s:g} s: "
                    f"{why}. See what is there: admit cache status",
                    self._total or 0,
                    self._keeper.max_bytes(),
                )
            self._manner.sleep(min(LOOK_EVERY_S, left_s))
            why = self._keeper.why_no_room(self._wanted())

    def _tell(self, state: State, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self._told_s >= _TELL_EVERY_S:
            self._told_s = now
            self._manner.tell(Progress(state, self._done, self._total))
