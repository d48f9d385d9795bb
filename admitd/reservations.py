"""reservations: the only file that writes them.

Where: one folder for the whole machine, whatever HOME says, because memory is the machine's. Linux: /dev/shm/admit
(a unit with PrivateTmp still sees it, and a reboot empties it); macOS: /private/var/tmp/admit (a reboot leaves it, and
what another boot has written counts for nothing). ADMIT_STATE_DIR names another. Each record is one small file, made
whole under another name and then renamed, and never changed again.

What is true: a reservation stands while its holder lives, or anyone holds its lease (a lock on its file, inherited by
what a load command starts), and its deadline has not come. The kernel answers both questions, so a crash leaves
nothing to repair. One that a load command has handed over (to launchd, say) has a second record, which names no
holder. Deadlines are of the machine's monotonic clock: setting the wall clock ends nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from admitd import hands
from admitd import record as records
from admitd.core.terms import Capacity, ProcessId, Reservation, Service, Waiter
from admitd.machinelock import LOCK_WAIT_S, Busy, MachineLock, NotRecorded, take
from admitd.processes.holders import Holders
from admitd.record import LONGEST_S, Record

__all__ = ["LOCK_WAIT_S", "Busy", "NotRecorded", "Reservations", "Standing", "folder"]

LEASE_WAIT_S: Final = 1.0
"""Whoever asks about a lease holds it for microseconds; whoever holds it longer loads on it."""
RECORD_MAX: Final = 4096
_BEGINNINGS: Final = tuple(f"{kind}~" for kind in records.KINDS)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""No symlink is followed, no FIFO waited for, no child given a copy."""


def folder(environ: Mapping[str, str]) -> Path:
    """The folder that all of this machine's admissions share. Raises NotRecorded where it depends on who asks."""
    named = environ.get("ADMIT_STATE_DIR")
    if named and not named.startswith("/"):
        raise NotRecorded(f"ADMIT_STATE_DIR={named} depends on the working folder; write the whole path, from /")
    if named:
        return Path(named)
    return Path("/private/var/tmp/admit" if sys.platform == "darwin" else "/dev/shm/admit")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at one moment.

    `mark` is new after each admission: checks run before the lock is taken, and comparing two moments tells whether
    their answers may have been overtaken. It is read before the records are.
    """

    reservations: tuple[Reservation, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    mark: bytes = b""
    warnings: tuple[str, ...] = ()

    @property
    def launchers(self) -> Mapping[int, Collection[str]]:
        """The services that each holder has reservations for, by its pid."""
        launchers: dict[int, set[str]] = {}
        for each in self.reservations:
            if each.holder is not None:
                launchers.setdefault(each.holder.pid, set()).add(each.service)
        return launchers


class Reservations:
    """The records of one machine. `identify` tells which process has a pid now."""

    def __init__(self, where: Path, identify: Callable[[int], ProcessId | None], *, shared: bool = True) -> None:
        self.where = where
        self._shared = shared
        self._identify = identify
        self._holders = Holders(identify)
        self._lock = MachineLock(where / "lock", self.prepare)
        self._read: dict[str, Record] = {}
        self._lost: dict[str, Record] = {}
        self._folder: int | None = None

    def prepare(self) -> None:
        """Make the folder. Raises NotRecorded, with the command that mends it, where it cannot be used."""
        try:
            with contextlib.suppress(FileExistsError):
                self.where.mkdir(mode=0o700, parents=True)
            found = self.where.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotRecorded(f"{self.where} is not a folder; remove it, or set ADMIT_STATE_DIR")
            if self._shared and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700:
                # Shared by the machine's users, each of whom may remove only his own: as /tmp is. Also where whoever
                # made it was killed between the two steps.
                self.where.chmod(0o1777)
                found = self.where.lstat()
        except OSError as problem:
            raise NotRecorded(f"{self.where} cannot be made: {problem.strerror}; set ADMIT_STATE_DIR") from problem
        if found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX:
            raise NotRecorded(f"{self.where} may be emptied by anyone; run: chmod 1777 {shlex.quote(str(self.where))}")

    @contextlib.contextmanager
    def lock(self, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
        """Hold the machine-wide lock; yields its descriptor, for `reserve`. Raises Busy or NotRecorded."""
        with self._lock.hold(wait_s) as held:
            yield held

    def standing(self, capacity: Capacity) -> Standing:
        """What stands now. Reads only; a record that has ended is passed over, whoever should have removed it."""
        # The mark first: what is written after it was read shows as a new one, also where it has ended by then.
        mark = self._lock.mark()
        names = self._list()
        now = time.monotonic()
        found = {name: read for name in names if (read := self._record(name, capacity, now)) is not None}
        found |= {name: lost for name, lost in self._lost.items() if name not in found}
        self._read = found
        living = self._holders.living({each.watched for each in found.values() if each.watched is not None})
        standing = {
            name: each
            for name, each in found.items()
            if each.made_s <= now < each.term.deadline_s
            and (each.watched is None or each.watched in living or self._is_leased(name))
        }
        terms = [each.term for each in standing.values()]
        held: dict[str, Reservation] = {}
        for term in terms:
            # One that was handed over has two records, and stands once.
            if isinstance(term, Reservation) and (term.handed_over or term.id not in held):
                held[term.id] = term
        return Standing(
            tuple(held.values()),
            tuple(term for term in terms if isinstance(term, Waiter)),
            mark,
            tuple(
                f"{self.where / name} is damaged: what it held is charged until it would have ended; "
                f"remove it where nothing loads {each.term.service}"
                for name, each in standing.items()
                if each.is_damaged
            ),
        )

    def reserve(self, lock: int, service: Service, holder: ProcessId | None) -> Reservation:
        """Write a reservation down, under the lock. Raises NotRecorded, and then nothing was admitted."""
        life = min(service.load_timeout_s, LONGEST_S)
        now = time.monotonic()
        reservation = Reservation(_new_id(), service.name, service.budget, holder, now + life, time.time() + life)
        # Twice: whoever compares marks must see every reservation that he could have missed. He who read just before it
        # was written sees by the second that it came since; the first is for us being killed before that.
        self._lock.renew_mark(lock)
        name = self._write(Record(reservation, now, holder))
        try:
            self._lock.renew_mark(lock)
        except NotRecorded:
            self._remove(name)
            raise
        if not self._lock.is_current(lock):
            # Someone removed the lock's file: another may be deciding now, who looked before this was written.
            self._remove(name)
            raise NotRecorded(f"{self.where / 'lock'} was removed while it was held; ask again")
        return reservation

    def hand_over(self, lock: int, record_id: str) -> bool:
        """Under the lock: the load command of a reservation has ended well, and another program loads. It is written
        down a second time, by a record that names no holder, and stands until its deadline. Whether it stood still.
        Raises NotRecorded."""
        for name in self._names(record_id):
            try:
                record = records.decode(name, self._content(name))
            except (OSError, records.Damaged):
                continue
            if not isinstance(record.term, Reservation):
                continue
            handed = replace(record.term, holder=None, handed_over=True)
            if handed != record.term:
                self._lock.renew_mark(lock)
                beside = self._write(Record(handed, record.made_s, None))
                if not (self.where / name).exists():  # given back at this moment, which takes no lock
                    self._remove(beside)
                    return False
            return True
        return False

    def renew(self, lock: int) -> None:
        """Under the lock: a reservation that stands was promised anew, so a check that said loaded may be overtaken."""
        self._lock.renew_mark(lock)

    def place(self, service: Service, holder: ProcessId | None, for_s: float, arrived_s: float) -> Waiter:
        """A place in the queue that is not written down yet."""
        now = time.monotonic()
        deadline_s = now + min(for_s, LONGEST_S)
        return Waiter(_new_id(), service.name, service.priority, min(arrived_s, now), holder, deadline_s)

    def wait(self, place: Waiter) -> None:
        """Write down, under the lock, that someone waits. Where he is not named, he waits as long as this process
        does for him. Raises NotRecorded."""
        self._write(Record(place, time.monotonic(), place.holder or self._identify(os.getpid())))

    def give_back(self, record_id: str) -> bool:
        """Remove a record by its id; whether there was one that may be removed."""
        lost = [name for name in self._lost if _id(name) == record_id]
        for name in lost:
            del self._lost[name]
        given = bool(lost)
        while [name for name in self._names(record_id) if self._remove(name)]:  # again: it may be handed over meanwhile
            given = True
        return given

    def service_of(self, record_id: str) -> str | None:
        """The service that a reservation is for; None where it is a place in the queue, or gone."""
        held = [name.split("~") for name in self._names(record_id)]
        return next((service for kind, service, *_ in held if kind != records.WAITING), None)

    def prune(self, lock: int, keep: Standing, written: set[str]) -> None:
        """Under the lock: remove the records that have ended; `keep` stands, and `written` has just begun to."""
        ids = {reservation.id for reservation in keep.reservations} | {waiter.id for waiter in keep.waiters} | written
        try:
            names = os.listdir(self.where)
        except OSError:
            return
        if not self._lock.is_current(lock):
            return  # listed first and asked after: another who decides by now has nothing in this list
        for name in names:
            ended = name.startswith(_BEGINNINGS) and _id(name) not in ids
            # What is written has its name before the lock is let go: an unfinished one is a dead process's.
            if ended or name.startswith(".") or hands.is_of_another_boot(name):
                self._remove(name)
        for name, lost in list(self._lost.items()):
            with contextlib.suppress(OSError):
                if lost.term.id in ids:
                    self._publish(name, records.encode(lost))
                del self._lost[name]

    def lease(self, record_id: str) -> int:
        """A descriptor that keeps the reservation standing while anyone has it open, across fork and exec.

        Raises NotRecorded where it has ended, or is being loaded on: then nothing may be started on it.
        """
        taken = NotRecorded(f"reservation {record_id} is being loaded on already; ask again")
        for name in self._names(record_id):
            with contextlib.suppress(OSError, records.Damaged):
                fd = os.open(self.where / name, _READ)
                try:
                    take(fd, time.monotonic() + LEASE_WAIT_S, lambda: taken)
                    deadline_s = records.decode(name, os.read(fd, RECORD_MAX)).term.deadline_s
                    if os.fstat(fd).st_nlink and time.monotonic() < deadline_s:
                        return os.dup(fd)  # the same lock: it outlives the descriptor that took it
                finally:
                    os.close(fd)
        raise NotRecorded(f"reservation {record_id} has ended, and nothing may be started on it; ask again")

    # The folder.

    def _list(self) -> list[str]:
        """The names in the folder. Where the folder itself was removed, what stood in it was not given back: it is
        kept in mind, and written down again with the next decision."""
        try:
            now = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            now = None
        except OSError as problem:
            raise NotRecorded(f"{self.where} cannot be read: {problem.strerror}") from problem
        before, self._folder = self._folder, now
        if before is not None:
            if now is None or not os.path.samestat(os.fstat(before), os.fstat(now)):
                self._lost |= {name: each for name, each in self._read.items() if not each.is_damaged}
            os.close(before)
        try:
            return os.listdir(now) if now is not None else []
        except OSError as problem:
            raise NotRecorded(f"{self.where} cannot be read: {problem.strerror}") from problem

    def _names(self, record_id: str) -> list[str]:
        """The names of the records with this id; whatever else is in the folder is no record."""
        try:
            told = {name: records.label(name) for name in os.listdir(self.where)}
        except OSError:
            return []
        return [name for name, label in told.items() if label is not None and label.id == record_id]

    def _remove(self, name: str) -> bool:
        try:
            os.unlink(self.where / name)
        except OSError:  # another user's, or gone already: its holder's death ends it just as well
            return False
        self._read.pop(name, None)
        return True

    # Records.

    def _write(self, record: Record) -> str:
        name = records.name_of(record.term)
        try:
            self._publish(name, records.encode(record))
        except OSError as problem:
            raise NotRecorded(f"no reservation can be written to {self.where}: {problem.strerror}") from problem
        return name

    def _publish(self, name: str, content: bytes) -> None:
        making = self.where / f".{_id(name)}"
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            try:
                os.fchmod(fd, 0o644)  # whatever the umask: another user who cannot read it cannot see its holder die
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
            os.rename(making, self.where / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(making)
            raise

    def _record(self, name: str, capacity: Capacity, now: float) -> Record | None:
        """A record by its name, which is never used twice, so it is read once; a damaged one may have been unreadable
        for a moment only, so it is read again, and keeps the deadline that it was given first."""
        known = self._read.get(name)
        if known is not None and not known.is_damaged:
            return known
        told = records.label(name)
        if told is None:
            return None
        try:
            return records.decode(name, self._content(name))
        except FileNotFoundError:
            return None
        except (OSError, records.Damaged):
            pass
        try:
            age_s = time.time() - os.lstat(self.where / name).st_mtime
        except OSError:
            return None
        return known or records.damaged(told, capacity.services.get(told.service), age_s, now, time.time())

    def _content(self, name: str) -> bytes:
        fd = os.open(self.where / name, _READ)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise records.Damaged(f"{name} is no plain file")
            return os.read(fd, RECORD_MAX)
        finally:
            os.close(fd)

    def _is_leased(self, name: str) -> bool:
        """Whether anyone holds the lease. Shared, so that those who ask at once do not take each other for a lessee."""
        try:
            fd = os.open(self.where / name, _READ)
        except FileNotFoundError:
            return False
        except OSError:  # it cannot be told: charged, until its deadline
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False


def _new_id() -> str:
    return secrets.token_hex(8)


def _id(name: str) -> str:
    return name.rpartition("~")[2]
