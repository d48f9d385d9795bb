"""pool: the models of one app: loaded when they are needed, unloaded when others need the room, asked from any thread.

Requests to one model are answered in turn, those to different models at the same time. A model that answers is never
unloaded.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from admit_sdk.backends import Backend, backend_of
from admit_sdk.errors import Aborted, ModelFailed, ResourceNotAvailableError
from admit_sdk.governor import MemoryGovernor
from admit_sdk.holdings import Holdings, Measuring, measure
from admit_sdk.jobs import Job, Stream, Ticket, Waiting
from admit_sdk.lifecycle import State
from admit_sdk.models import Model, Need, catalogue
from admit_sdk.overrun import SaveAndStop
from admit_sdk.profiles import Profile
from admit_sdk.requests import Request, Text
from admit_sdk.room import Lacking, Room, counts, variants
from admit_sdk.rounds import Rounds
from admit_sdk.told import tell_fault, warn
from admit_sdk.worker import Worker, WorkerStatus, why_failed
from admitd.core.governing import Pressure
from admitd.core.units import to_mb

Answer = TypeVar("Answer")
CLOSE_S: Final = 5.0
"""How long closing waits for workers: for the token that each is at, or for a load under way."""
TEND_S: Final = 2.0


@dataclass
class _Slot:
    """One declared model."""

    model: Model
    waiting: Waiting
    workers: list[Worker] = field(default_factory=list)
    starting: threading.Lock = field(default_factory=threading.Lock)
    need: Need | None = None
    """As it was measured; else as its files say."""


class ModelPool:
    """The models of one app. A context manager; closing it unloads everything."""

    def __init__(
        self,
        governor: MemoryGovernor,
        models: Iterable[Model],
        *,
        prefers_smaller: Callable[[], bool] | None = None,
        overrun: SaveAndStop | None = None,
        told: Callable[[str, State], None] | None = None,
    ) -> None:
        """`prefers_smaller`: asked before each request; where it says so, the declared smaller variant answers
        (admit_sdk/power.py has on_battery). `overrun`: what happens beyond the hard limit, beside that nothing is
        loaded. `told`: called with a model's name, by the thread that it concerns, when it loads, is ready, is dead or
        failed; it must not wait for the pool. Raises ValueError.
        """
        self.governor = governor
        self.soft_bytes = governor.soft_bytes
        self.hard_bytes = governor.limit_bytes
        # A bare lock: Ctrl-C inside Condition's own __enter__, which is Python, would leave it held for ever.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._slots = {name: _Slot(each, Waiting(name, each.queue_limit)) for name, each in catalogue(models).items()}
        self._models = {name: slot.model for name, slot in self._slots.items()}
        self._prefers_smaller = prefers_smaller
        self._overrun = overrun
        self._told = told
        self._closed = False
        self._owns_governor = False
        self._tending = Rounds("admit-tend", self, _tend)
        self._measuring = Measuring()
        self._room = Room(governor, self.lock, self.changed, self._workers, self._held, self._tending.ring)
        self._tending.start()
        _open.add(self)
        self._preload()

    @classmethod
    def with_profile(cls, profile: Profile, models: Iterable[Model], *, name: str = "app", **options: Any) -> ModelPool:
        """A pool with a governor of its own, `name`. What the app's heap takes now is kept for it, out of the budget.

        Unless `overrun` says something else, None for nothing, the app stops by itself beyond the hard limit. Raises
        ValueError where the heap leaves nothing, OSError where it can't be measured.
        """
        heap = measure().counted
        if heap >= profile.hard_bytes:
            raise ValueError(
                f"this app holds {to_mb(heap)} MB before any model is loaded, and its hard limit is "
                f"{to_mb(profile.hard_bytes)} MB: give it more"
            )
        governor = MemoryGovernor(profile.hard_bytes, heap, soft=max(1, profile.soft_bytes - heap), name=name)
        pool = cls(governor, models, **{"overrun": SaveAndStop(), **options})
        pool._owns_governor = True
        return pool

    # Asking.

    def submit(
        self,
        model: str,
        request: Request[Answer],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> Ticket[Answer]:
        """Ask a model; it is loaded first where it is not. Returns when that has begun.

        `priority`: the higher goes first. `timeout_s`: from now on until the answer; after that it is DeadlinePassed.
        `wait_s`: how long to wait for room where there is none. Raises QueueFull, ModelFailed, ValueError, and, while
        it waits for room, DeadlinePassed, Aborted where the pool is closed, ResourceNotAvailableError.
        """
        slot = self._slot_for(model, request)
        name = slot.model.name
        job = Job(name, request, priority, None if timeout_s is None else time.monotonic() + timeout_s)
        with self.lock:
            self._refuse_closed()
            slot.waiting.put(job)
            served = any(counts(each) for each in slot.workers)
            self.changed.notify_all()
        if not served:
            try:
                self._ensure_workers(slot, slot.model.workers, wait_s, job)
            except BaseException:
                with self.lock:
                    slot.waiting.remove(job)
                raise
        return Ticket(job, slot.waiting, self.lock)

    def ask(
        self,
        model: str,
        request: Request[Answer],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> Answer:
        """Ask, and wait for the whole answer. Raises what `submit` and `Ticket.result` do."""
        ticket = self.submit(model, request, priority=priority, timeout_s=timeout_s, wait_s=wait_s)
        try:
            return ticket.result()
        except BaseException:
            ticket.cancel()  # Ctrl-C, say: nobody is there to hear the answer
            raise

    def stream(
        self,
        model: str,
        request: Request[Text],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> Stream:
        """Ask, and have the text piece by piece. Closing the stream calls it off. Raises what `submit` does."""
        return Stream(self.submit(model, request, priority=priority, timeout_s=timeout_s, wait_s=wait_s))

    # Workers.

    def ensure_workers(self, model: str, wanted: int | None = None, *, wait_s: float = 0.0) -> int:
        """Have `wanted` workers of a model, or as many as it is declared with; returns how many there are.

        Two if both fit, one if one fits: only for the first one idle models are unloaded. Raises MemoryExhausted where
        not even one fits, ModelFailed, OSError, ValueError.
        """
        slot = self._slot(model)
        wanted = slot.model.workers if wanted is None else wanted
        if wanted < 1:
            raise ValueError(f"{wanted} workers of {model}: ask for at least one")
        return self._ensure_workers(slot, wanted, wait_s)

    def _ensure_workers(
        self, slot: _Slot, wanted: int, wait_s: float, job: Job | None = None, *, evict: bool = True
    ) -> int:
        """`job`: for whom; once he is answered, or does not want it any more, no room is waited for. `evict`: idle
        models may go for the first worker."""
        backend = backend_of(slot.model)
        began_s = time.monotonic()
        while True:
            with slot.starting:
                with self.lock:
                    self._refuse_closed(job)
                    there = sum(counts(each) for each in slot.workers)
                if there >= wanted or (job is not None and job.is_over):
                    return there
                if job is not None:
                    job.check()
                try:
                    lacking = self._start_worker(slot, backend, job, evict=evict and not there)
                except ResourceNotAvailableError:
                    if not there:
                        raise
                    return there
            if lacking is None:
                continue
            if there:
                return there
            until_s = began_s + lacking.patience_s(wait_s)
            if time.monotonic() >= until_s:
                smaller = variants(slot.model, self._models, lambda each: self._need(self._slots[each.name]).together)
                raise self._room.refusal(slot.model, self._need(slot), smaller, lacking)
            self._room.wait(until_s if job is None or job.deadline_s is None else min(until_s, job.deadline_s))

    def _start_worker(self, slot: _Slot, backend: Backend, job: Job | None, *, evict: bool) -> Lacking | None:
        """Start one; what it lacks, where it can't be started now."""
        model = slot.model
        guard = self._room.take(model, self._need(slot, backend), evict=evict)
        if isinstance(guard, Lacking):
            return guard
        try:
            worker = Worker(self, model, backend, slot.waiting, guard)
            with self.lock:  # from here on whoever closes the pool, or hears of the worker's end, finds it
                self._refuse_closed(job)
                worker.start()
                slot.workers.append(worker)
                self.governor.evictions.register(worker)
        except RuntimeError as why:
            guard.release()
            raise ModelFailed(f"{model.name} could not be loaded: the system has no room for a thread") from why
        except BaseException:
            guard.release()
            raise
        return None

    def evict(self, model: str) -> int:
        """Unload the workers of a model that do nothing, and wait until their memory is back; returns how many went."""
        with self.lock:
            found = list(self._slot(model).workers)
        return sum(each.evict() for each in found)

    def status(self) -> tuple[WorkerStatus, ...]:
        """The workers there are."""
        now_s = time.monotonic()
        return tuple(
            WorkerStatus(each.name, each.state, each.size_bytes, max(0.0, now_s - each.last_used_s))
            for each in self._workers()
        )

    def holdings(self) -> Holdings:
        """What the process really holds. Raises OSError."""
        return measure(self._mapped_files())

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """Call off all requests and unload everything, for good; whether that is done within `wait_s`."""
        gone = self._unload_all(wait_s)
        self._tending.stop(wait_s)
        if self._owns_governor:
            self.governor.close(wait_s)
        return gone

    def _unload_all(self, wait_s: float) -> bool:
        with self.lock:
            self._closed = True
            given_up = [job for slot in self._slots.values() for job in slot.waiting.take_all()]
            workers = self._workers()
            self.changed.notify_all()
        for job in given_up:
            job.end(error=Aborted("the pool was closed"))
        for each in workers:
            each.finish()
        deadline_s = time.monotonic() + wait_s
        gone = [each.join(max(0.0, deadline_s - time.monotonic())) for each in workers]
        return all(gone)

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # For workers.

    def measured(self, model: Model, need: Need) -> None:
        """What a model turned out to hold: the next load of it goes by that, and by what loading takes."""
        slot = self._slots[model.name]
        slot.need = need if slot.need is None else replace(need, loading=slot.need.loading)

    def ended(self, worker: Worker) -> None:
        """Called with the lock, by a worker that holds nothing any more."""
        slot = self._slots[worker.model.name]
        slot.workers = [each for each in slot.workers if each is not worker]
        self.governor.evictions.unregister(worker)
        if worker.state is State.FAILED and not any(counts(each) for each in slot.workers):
            why = why_failed(worker)
            for job in slot.waiting.take_all():
                job.end(error=why)

    def tell(self, worker: Worker) -> None:
        """Called without the lock. The app's fault in hearing it is not the worker's."""
        if self._told is not None:
            try:
                self._told(worker.name, worker.state)
            except Exception:
                tell_fault(f"hearing of {worker.name} failed")

    # Within.

    def _slot(self, name: str) -> _Slot:
        slot = self._slots.get(name)
        if slot is None:
            raise ValueError(f"no model is called {name!r}; there are {', '.join(self._slots) or 'none'}")
        return slot

    def _slot_for(self, name: str, request: Request[Any]) -> _Slot:
        """The model that answers: the one that was asked, or the one that stands in for it."""
        slot = self._slot(name)
        if request.capability is not slot.model.capability:
            raise ValueError(f"{name} is for {slot.model.capability}, and was asked for {request.capability}")
        if slot.model.smaller is not None and self._prefers_smaller is not None and self._prefers_smaller():
            return self._slots[slot.model.smaller]
        return slot

    def _need(self, slot: _Slot, backend: Backend | None = None) -> Need:
        """What it will hold. Raises ModelFailed, OSError."""
        if slot.need is None:
            slot.need = (backend or backend_of(slot.model)).need(slot.model)
        return slot.need

    def _workers(self) -> Sequence[Worker]:
        return [each for slot in self._slots.values() for each in slot.workers]

    def _held(self) -> Holdings:
        """As `holdings`, for those who ask often."""
        return self._measuring.measure(self._mapped_files())

    def _mapped_files(self) -> list[Path]:
        return [Path(slot.model.path) for slot in self._slots.values() if slot.model.map_weights and slot.workers]

    def _refuse_closed(self, job: Job | None = None) -> None:
        """`job`: one that was there before; he hears what those hear whose model was loaded."""
        if self._closed and job is not None:
            raise Aborted("the pool was closed")
        if self._closed:
            raise ModelFailed("the pool is closed; open a new one")

    def _preload(self) -> None:
        """Load what is declared eager, in that order, as far as it fits beside what is there and the pressure is low;
        the rest when it is needed."""
        for slot in self._slots.values():
            if not slot.model.eager:
                continue
            pressure = self.governor.pressure
            if pressure >= Pressure.HIGH:
                warn(f"{slot.model.name} is not loaded ahead of need: the pressure is {pressure.word}")
                continue
            try:
                self._ensure_workers(slot, slot.model.workers, 0.0, evict=False)
            except (ResourceNotAvailableError, ModelFailed, OSError) as why:
                warn(f"{slot.model.name} is not loaded ahead of need: {why}")

    def _tend(self) -> None:
        """Unload what is queued. Near the soft budget idle models go, also when the app's own heap has grown; beyond
        the hard one the app stops."""
        evictions = self.governor.evictions
        evictions.work_off()
        over = self._room.overrun()
        if over > 0 and evictions.put(evictions.plan_what_there_is(over), "the app is over its soft budget"):
            evictions.work_off()
        if self._overrun is not None and self._overrun.look(self._held().counted, self.hard_bytes):
            self._unload_all(CLOSE_S)  # and it is looked on: whoever asked may not have stopped


def _tend(pool: ModelPool) -> float:
    pool._tend()
    return TEND_S


_open: weakref.WeakSet[ModelPool] = weakref.WeakSet()


def _close_all() -> None:
    for each in list(_open):
        each.close()


# Before the interpreter takes its libraries down: a thread inside one of them would crash then.
atexit.register(_close_all)
