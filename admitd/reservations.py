"""reservations: the only file that writes them, and the home of the machine-wide lock.

Where: one folder for the whole machine, whatever HOME says, because memory is the machine's. Linux: /dev/shm/admit
(a unit with PrivateTmp still sees it, and a reboot empties it); macOS: /private/var/tmp/admit. ADMIT_STATE_DIR names
another. Each record is one small file, made whole under another name and then renamed, and never changed again; its
name says which service it is for and how much is held, so that a damaged one is still charged.

What is true: a reservation stands while its holder lives, or anyone holds its lease (a lock on its file, inherited by
what a load command starts), and its deadline has not come. The kernel answers both questions, so a crash leaves
nothing to repair. Deadlines are of the machine's monotonic clock: setting the wall clock ends nothing.

The lock is flock on one file: the kernel lets it go when its holder dies. It is held for one decision only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from admitd.core.terms import NAME, Amounts, Capacity, ProcessId, Reservation, Service, Waiter
from admitd.processes.holders import Holders

LOCK_WAIT_S: Final = 5.0
"""A decision takes milliseconds and is bounded by two seconds; whoever holds the lock longer is stuck or hostile."""
RECORD_MAX: Final = 4096
DAMAGED_S: Final = 300.0
"""How long a damaged record of an undeclared service is charged, from the file's own time on."""
LONGEST_S: Final = 86_400.0
"""No promise is believed for longer than a day."""
_HELD: Final = "held"
_WAITING: Final = "waiting"
_PARTS: Final = 4  # kind, service, amounts, id


class NotRecorded(Exception):
    """The record could not be written; so nothing may be admitted. The text says why."""


class Busy(Exception):
    """The machine-wide lock could not be had in time."""


def folder(environ: Mapping[str, str]) -> Path:
    """The folder that all of this machine's admissions share."""
    named = environ.get("ADMIT_STATE_DIR")
    if named:
        return Path(named)
    return Path("/private/var/tmp/admit" if sys.platform == "darwin" else "/dev/shm/admit")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at one moment.

    `generation` counts every reservation ever written for a service that has a loaded_check_cmd: checks run before the
    lock is taken, and comparing two moments tells whether their answers may have been overtaken.
    """

    reservations: tuple[Reservation, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    generation: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Record:
    """What one file says. A record made later than now is another boot's: the monotonic clock began anew."""

    term: Reservation | Waiter
    made_s: float


class Reservations:
    """The records of one machine. `identify` tells which process has a pid now."""

    def __init__(self, where: Path, identify: Callable[[int], ProcessId | None], *, shared: bool = True) -> None:
        self.where = where
        self._shared = shared
        self._holders = Holders(identify)
        self._read: dict[str, _Record] = {}

    def prepare(self) -> None:
        """Make the folder. Raises NotRecorded, with the command that mends it, where it cannot be used."""
        try:
            with contextlib.suppress(FileExistsError):
                self.where.mkdir(mode=0o700, parents=True)
                if self._shared:
                    # Shared by the machine's users, each of whom may remove only his own: as /tmp is.
                    self.where.chmod(0o1777)
            found = self.where.lstat()
        except OSError as problem:
            raise NotRecorded(f"{self.where} cannot be made: {problem.strerror}; set ADMIT_STATE_DIR") from problem
        if not stat.S_ISDIR(found.st_mode):
            raise NotRecorded(f"{self.where} is not a folder; remove it, or set ADMIT_STATE_DIR")
        if found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX:
            raise NotRecorded(f"{self.where} may be emptied by anyone; run: chmod 1777 {self.where}")

    @contextlib.contextmanager
    def lock(self, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
        """Hold the machine-wide lock; yields a descriptor for `bump`. Raises Busy or NotRecorded."""
        give_up = time.monotonic() + wait_s
        while True:
            fd = self._open_lock()
            try:
                _take(fd, give_up, self.where / "lock")
                if self._is_current(fd):
                    yield fd
                    return
            finally:
                os.close(fd)

    def standing(self, capacity: Capacity) -> Standing:
        """What stands now. Reads only; a record that has ended is passed over, whoever should have removed it."""
        now = time.monotonic()
        try:
            names = os.listdir(self.where)
        except FileNotFoundError:
            return Standing()
        except OSError as problem:
            raise NotRecorded(f"{self.where} cannot be read: {problem.strerror}") from problem
        records = [(name, record) for name in names if (record := self._record(name, capacity)) is not None]
        self._read = dict(records)
        living = self._holders.living({r.term.holder for _, r in records if r.term.holder is not None})
        standing = [
            record.term
            for name, record in records
            if record.made_s <= now < record.term.deadline_s
            and (record.term.holder is None or record.term.holder in living or self._is_leased(name))
        ]
        return Standing(
            tuple(term for term in standing if isinstance(term, Reservation)),
            tuple(term for term in standing if isinstance(term, Waiter)),
            self.generation(),
        )

    def generation(self) -> int:
        """How many reservations for services with a check were ever written here."""
        try:
            with open(self.where / "lock", "rb") as lock:
                return int(lock.read(32) or b"0")
        except (OSError, ValueError):
            return 0

    def reserve(self, lock: int, service: Service, holder: ProcessId | None) -> Reservation:
        """Write a reservation down, under the lock. Raises NotRecorded, and then nothing was admitted."""
        life = min(service.load_timeout_s, LONGEST_S)
        now = time.monotonic()
        reservation = Reservation(
            secrets.token_hex(8), service.name, service.budget, holder, now + life, time.time() + life
        )
        if service.loaded_check_cmd is not None:
            # Counted first: whoever compares generations must see every reservation that he could have missed.
            self._count(lock)
        self._write(_HELD, reservation, {"expires_at": reservation.expires_at}, now)
        return reservation

    def wait(self, service: Service, holder: ProcessId | None, for_s: float) -> Waiter:
        """Write down, under the lock, that someone waits for `service`. Raises NotRecorded."""
        now = time.monotonic()
        life = min(for_s, LONGEST_S)
        waiter = Waiter(secrets.token_hex(8), service.name, service.priority, now, holder, now + life)
        self._write(_WAITING, waiter, {"priority": waiter.priority}, now)
        return waiter

    def give_back(self, record_id: str) -> bool:
        """Remove a record by its id; whether there was one that may be removed."""
        return any(self._remove(name) for name in self._names(record_id))

    def service_of(self, record_id: str) -> str | None:
        """The service that a reservation is for; None where it is a place in the queue, or gone."""
        held = [name for name in self._names(record_id) if name.startswith(f"{_HELD}~")]
        return held[0].split("~")[1] if held and held[0].count("~") == _PARTS - 1 else None

    def prune(self, keep: Standing, written: set[str]) -> None:
        """Under the lock: remove the records that have ended; `keep` stands, and `written` has just begun to."""
        ids = {reservation.id for reservation in keep.reservations} | {waiter.id for waiter in keep.waiters} | written
        with contextlib.suppress(OSError):
            for name in os.listdir(self.where):
                if _record_id(name) not in ids and name.startswith((f"{_HELD}~", f"{_WAITING}~")):
                    self._remove(name)

    def lease(self, record_id: str) -> int | None:
        """A descriptor that keeps the reservation standing while anyone has it open, across fork and exec."""
        for name in self._names(record_id):
            with contextlib.suppress(OSError):
                fd = os.open(self.where / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fcntl.flock(fd, fcntl.LOCK_SH)
                return fd
        return None

    def _names(self, record_id: str) -> list[str]:
        try:
            return [name for name in os.listdir(self.where) if _record_id(name) == record_id]
        except OSError:
            return []

    def _remove(self, name: str) -> bool:
        try:
            os.unlink(self.where / name)
        except OSError:  # another user's, or gone already: its holder's death ends it just as well
            return False
        self._read.pop(name, None)
        return True

    # The lock.

    def _open_lock(self) -> int:
        path = self.where / "lock"
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                # Without O_CREAT first: fs.protected_regular denies that on another user's file in a sticky folder.
                return os.open(path, flags)
            except FileNotFoundError:
                self.prepare()
                fd = os.open(path, flags | os.O_CREAT, 0o666)
                with contextlib.suppress(OSError):
                    os.fchmod(fd, 0o666)  # every user of this machine must be able to lock it
                return fd
        except OSError as problem:
            raise NotRecorded(f"{path} cannot be opened: {problem.strerror}") from problem

    def _is_current(self, fd: int) -> bool:
        """Whether the locked file is still the one that others would lock: a cleaner may have removed it."""
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.where / "lock"))
        except OSError:
            return False

    # Records.

    def _count(self, lock: int) -> None:
        try:
            os.pwrite(lock, b"%020d" % (self.generation() + 1), 0)
        except OSError as problem:
            raise NotRecorded(f"{self.where / 'lock'} cannot be written: {problem.strerror}") from problem

    def _write(self, kind: str, term: Reservation | Waiter, more: dict[str, float], made_s: float) -> None:
        holder = term.holder
        record = {
            "version": 1,
            "made_s": made_s,
            "deadline_s": term.deadline_s,
            "holder_pid": holder.pid if holder else None,
            "holder_started": holder.started if holder else None,
            **more,
        }
        held = term.budget if isinstance(term, Reservation) else {}
        amounts = "+".join(f"{resource}={amount}" for resource, amount in sorted(held.items()))
        try:
            self._publish(f"{kind}~{term.service}~{amounts}~{term.id}", json.dumps(record).encode())
        except OSError as problem:
            raise NotRecorded(f"no reservation can be written to {self.where}: {problem.strerror}") from problem

    def _publish(self, name: str, content: bytes) -> None:
        making = self.where / f".{_record_id(name)}"
        try:
            fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
            os.rename(making, self.where / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(making)
            raise

    def _record(self, name: str, capacity: Capacity) -> _Record | None:
        """A record by its name, which is never used twice, so it is read once. None: it is none, or not believed."""
        if name in self._read:
            return self._read[name]
        parts = name.split("~")
        if len(parts) != _PARTS or parts[0] not in (_HELD, _WAITING) or not NAME.match(parts[1]):
            return None
        try:
            return self._parse(name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return self._damaged(name, capacity)

    def _parse(self, name: str) -> _Record | None:
        kind, service, amounts, record_id = name.split("~")
        fd = os.open(self.where / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("a record is a plain file")
            content = json.loads(os.read(fd, RECORD_MAX))
        finally:
            os.close(fd)
        made_s, deadline_s = float(content["made_s"]), float(content["deadline_s"])
        deadline_s = min(deadline_s, made_s + LONGEST_S)
        pid, started = content["holder_pid"], content["holder_started"]
        holder = None if pid is None else ProcessId(int(pid), int(started))
        if holder is None and found.st_uid not in (0, os.getuid()):
            # Another user's promise without a living holder behind it would be a way to block this machine for nothing.
            return None
        if kind == _WAITING:
            return _Record(Waiter(record_id, service, int(content["priority"]), made_s, holder, deadline_s), made_s)
        expires_at = float(content["expires_at"])
        return _Record(Reservation(record_id, service, _amounts(amounts), holder, deadline_s, expires_at), made_s)

    def _damaged(self, name: str, capacity: Capacity) -> _Record | None:
        """A damaged reservation is charged what its name says, or its service declares, until it would have ended;
        a damaged place in the queue is nothing."""
        kind, service, amounts, record_id = name.split("~")
        declared = capacity.services.get(service)
        try:
            age = time.time() - os.lstat(self.where / name).st_mtime
            budget = _amounts(amounts)
        except OSError:
            return None
        except ValueError:
            budget = declared.budget if declared else {}
        if kind != _HELD:
            return None
        life = declared.load_timeout_s if declared else DAMAGED_S
        left = min(life, max(0.0, life - age))
        now = time.monotonic()
        return _Record(Reservation(record_id, service, budget, None, now + left, time.time() + left, damaged=True), 0.0)

    def _is_leased(self, name: str) -> bool:
        """Whether anyone holds the lease. Asking disturbs no one: whoever takes a lease waits, and never for long."""
        try:
            fd = os.open(self.where / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False


def _take(fd: int, give_up: float, path: Path) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise Busy(f"another decision has held {path} for {LOCK_WAIT_S:g} s; see: lsof {path}") from None
        except OSError as problem:
            raise NotRecorded(f"{path} cannot be locked: {problem.strerror}") from problem
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _record_id(name: str) -> str:
    return name.rpartition("~")[2]


def _amounts(text: str) -> Amounts:
    """What `ram=1048576+vram0=0` says. Raises ValueError where it says nothing."""
    amounts = {resource: int(amount) for resource, _, amount in (part.partition("=") for part in text.split("+"))}
    if not all(resource and amount >= 0 for resource, amount in amounts.items()):
        raise ValueError(f"{text!r} is not an amount")
    return amounts
