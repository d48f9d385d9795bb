"""worker: one copy of one model, and the thread that loads it, runs it and unloads it.

The thread has the guard from its first step to its last: a load that fails, raises or dies gives everything back. The
guard goes when the model has gone, never before.
"""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from admit_sdk.backends import Backend, Loaded
from admit_sdk.errors import Aborted, DeadlinePassed, ModelFailed, ResourceNotAvailableError
from admit_sdk.frames import without_frames
from admit_sdk.guard import AllocationGuard
from admit_sdk.holdings import give_back_freed
from admit_sdk.jobs import Job, Waiting
from admit_sdk.lifecycle import Happening, State, step
from admit_sdk.models import Model, Need
from admit_sdk.requests import Piece
from admit_sdk.told import tell_fault


class House(Protocol):
    """What a worker needs of its pool. `lock` guards all states and queues; `changed` is rung when one changes."""

    lock: threading.RLock
    changed: threading.Condition
    soft_bytes: int
    hard_bytes: int

    def measured(self, model: Model, need: Need) -> None:
        """Remember what a model really holds. Called without the lock."""

    def ended(self, worker: Worker) -> None:
        """A worker is dead, or failed. Called with the lock."""

    def tell(self, worker: Worker) -> None:
        """A worker loads, is ready, is dead or failed. Called without the lock."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, as it was at one moment."""

    model: str
    state: State
    size_bytes: int
    idle_s: float


class Worker:
    """A candidate for eviction, once it is loaded (admit_sdk/eviction.py)."""

    def __init__(self, house: House, model: Model, backend: Backend, waiting: Waiting, guard: AllocationGuard) -> None:
        self.model = model
        self.state = State.SPAWNING
        self.error: BaseException | None = None
        """Why it failed."""
        self._house = house
        self._backend = backend
        self._waiting = waiting
        self._guard = guard.hand_over()
        self._size = guard.reserved_bytes
        self._last_used_s = time.monotonic()
        self._job: Job | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=f"admit-{model.name}", daemon=True)

    def start(self) -> None:
        """Start its thread. Where the system has no room for one: raises RuntimeError, with everything given back."""
        try:
            self._thread.start()
        except RuntimeError:
            self._guard.release()
            with self._house.lock:
                self._step(Happening.BROKE)
            raise

    # As a candidate for eviction.

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def last_used_s(self) -> float:
        return self._last_used_s

    @property
    def eager(self) -> bool:
        return self.model.eager

    @property
    def busy(self) -> bool:
        """It loads, or answers, or is about to."""
        return not self.state.may_be_evicted or len(self._waiting) > 0

    def evict(self) -> bool:
        """Unload it, and wait until that is done; whether it went. Only one that does nothing goes."""
        with self._house.lock:
            if self.busy:
                return False
            self._step(Happening.EVICTED)
            self._house.changed.notify_all()
        self._thread.join()
        return self.state is State.DEAD

    def finish(self) -> None:
        """Have it unload as soon as it does nothing, and call off what it does. Returns at once."""
        with self._house.lock:
            self._ends = True
            if self._job is not None:
                self._job.unwanted = True
            self._house.changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Whether its thread has ended within so many seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # In its thread.

    def _run(self) -> None:
        broke: BaseException | None = None
        try:
            with self._guard.take_over():
                try:
                    self._live()
                except BaseException as fault:  # whatever it is, the memory goes back, and who waits is told
                    broke = without_frames(fault)
                finally:
                    gc.collect()
                    give_back_freed()
        finally:
            self._guard.release()
            with self._house.lock:
                self.error = broke
                self._step(Happening.GONE if broke is None else Happening.BROKE)
                self._house.ended(self)
                self._house.changed.notify_all()
            self._house.tell(self)

    def _live(self) -> None:
        """Load, answer what comes, unload. Raises what made it fail."""
        self._locked_step(Happening.STARTED)
        loaded = self._backend.load(self.model, self._house.soft_bytes, self._house.hard_bytes)
        try:
            self._guard.resize(loaded.need.together)
            self._size = loaded.need.together
            self._guard.report_used(loaded.need.weights)
            self._house.measured(self.model, loaded.need)
            self._locked_step(Happening.LOADED)
            while (job := self._next()) is not None:
                self._answer(loaded, job)
                del job  # else it stays, with its answer, until the next one comes
        finally:
            loaded.unload()

    def _next(self) -> Job | None:
        """The next request, taken in one step with becoming busy; None when it is to unload."""
        with self._house.lock:
            while True:
                if self.state is State.EVICTING:
                    return None
                if self._ends:
                    self._step(Happening.EVICTED)
                    return None
                job = self._waiting.take()
                if job is not None:
                    self._step(Happening.TAKES)
                    self._job = job
                    return job
                self._house.changed.wait()

    def _answer(self, loaded: Loaded, job: Job) -> None:
        """Answer one request. Raises what the worker can't go on after."""
        answer: Any = None
        error: BaseException | None = None
        fatal = False
        try:
            answer = _work(loaded, job)
        except (Aborted, DeadlinePassed, ValueError) as why:
            error = why
        except MemoryError:
            error = ModelFailed(f"{self.model.name} ran out of memory while it answered; it is unloaded")
            fatal = True
        except Exception as fault:
            tell_fault(f"{self.model.name} failed at a request")
            error = ModelFailed(f"{self.model.name} failed at a request: {type(fault).__name__}: {fault}")
        except BaseException as fault:  # SystemExit in a library, say: the worker goes with it
            error = ModelFailed(f"{self.model.name} broke at a request: {type(fault).__name__}")
            fatal = True
        with self._house.lock:
            self._job = None
            self._last_used_s = time.monotonic()
            if not fatal:
                self._step(Happening.ANSWERED)
        job.end(answer, None if error is None else without_frames(error))
        if fatal and error is not None:
            raise error

    def _locked_step(self, happening: Happening) -> None:
        with self._house.lock:
            self._step(happening)
            self._house.changed.notify_all()
        self._house.tell(self)

    def _step(self, happening: Happening) -> None:
        self.state = step(self.state, happening)


def _work(loaded: Loaded, job: Job) -> Any:
    """Take the steps of an answer, and look after each whether it is still wanted. What the request holds is given back
    before this returns."""
    steps = loaded.run(job.request, job.check)
    try:
        while True:
            job.check()
            try:
                piece = next(steps)
            except StopIteration as end:
                return end.value
            if isinstance(piece, Piece):
                job.pieces.put(piece)
    finally:
        steps.close()


def why_failed(worker: Worker) -> BaseException:
    """What those are told who waited for a worker that failed."""
    fault = worker.error
    if isinstance(fault, ModelFailed | ResourceNotAvailableError):
        return fault
    if isinstance(fault, MemoryError):
        return ModelFailed(f"{worker.model.name} could not be loaded: the system gave no memory for it")
    said = f"{type(fault).__name__}: {fault}" if fault is not None else "it was unloaded"
    return ModelFailed(f"{worker.model.name} could not be loaded: {said}")
