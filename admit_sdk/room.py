"""room: room for a model within the app's budget: who goes for it, what it lacks, what a refusal says.

A model is loaded within the soft budget only. What is between it and the hard limit is for what grows while it runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from admit_sdk import machine
from admit_sdk.errors import Exhausted, MemoryExhausted, ModelFailed, RequiresEviction, ResourceNotAvailableError
from admit_sdk.governor import MemoryGovernor
from admit_sdk.guard import AllocationGuard
from admit_sdk.holdings import Holdings
from admit_sdk.lifecycle import State
from admit_sdk.models import Model, Need, too_large
from admit_sdk.worker import Worker
from admitd.core.units import to_mb
from admitd.core.verdict import Reason

LOOK_AGAIN_S = 0.25
"""How long who waits for room sleeps at most, though a change of any worker wakes him."""
EVICTING_S = 60.0
"""How long an eviction that was begun is waited for: a library that hangs as it unloads must not hang who asks."""
BUDGET = "memory of the app's budget"
MACHINE = "memory of this machine"


@dataclass(frozen=True, slots=True)
class Lacking:
    """Why there was no room at one moment. `left`: bytes of the budget, or of the machine where `reason` says so;
    `on_their_way`: how many are being unloaded."""

    reason: Reason
    left: int
    evict: bool
    on_their_way: int = 0

    def patience_s(self, wait_s: float) -> float:
        """How long whoever would wait `wait_s` waits for this to change: longer for what goes for him already."""
        if self.reason is Reason.TOO_LARGE:
            return 0.0
        return max(wait_s, EVICTING_S) if self.evict and self.on_their_way else wait_s


class Room:
    """The budget of one pool. `lock` is the pool's, and `changed` is rung with it; nothing waits while it is held,
    but for the lock itself."""

    def __init__(
        self,
        governor: MemoryGovernor,
        lock: threading.RLock,
        changed: threading.Condition,
        workers: Callable[[], Sequence[Worker]],
        measure: Callable[[], Holdings],
        unload: Callable[[], None],
    ) -> None:
        """`unload`: has what is queued for eviction unloaded, by another thread."""
        self._governor = governor
        self._lock = lock
        self._changed = changed
        self._workers = workers
        self._measure = measure
        self._unload = unload

    def take(self, model: Model, need: Need, *, evict: bool) -> AllocationGuard | Lacking:
        """Keep memory for one worker, or say what is lacking at this moment; nothing is waited for.

        `evict`: idle models may go for it, and are on their way where it lacks. Raises ResourceNotAvailableError beyond
        the hard limit.
        """
        governor, size = self._governor, need.together
        if size > governor.soft_bytes:
            return Lacking(Reason.TOO_LARGE, self._left(), evict)
        held = self._measure().counted
        if held > governor.limit_bytes:
            raise over_hard(model, size, held, governor.limit_bytes)
        of_machine = self._left_of_machine(size)
        with self._lock:  # looked at and taken in one step: two who come at once do not both find the same room
            left = min(self._left(held), governor.free_bytes)  # a daemon may give less than the soft budget
            room = min(left, of_machine)
            if size <= room:
                try:
                    return governor.try_allocate(size, holder=model.name)
                except Exhausted as refused:  # others wait ahead for it
                    return Lacking(refused.reason, left, evict)
            on_their_way = governor.evictions.pending
        if evict and not on_their_way:
            plan = governor.evictions.plan(size - room) or ()
            governor.evictions.put(plan, f"{model.name} needs {to_mb(size)} MB")
            self._unload()
            on_their_way = len(plan)
        if of_machine < min(size, left):
            return Lacking(Reason.NO_AVAILABLE_MEMORY, of_machine, evict, on_their_way)
        return Lacking(Reason.NO_HEADROOM, left, evict, on_their_way)

    def wait(self, until_s: float) -> None:
        """Wait until a worker has changed, and never long: other things change unheard. Nothing is held meanwhile, so
        that others who ask for the same model wait by their own clocks. `until_s`: of time.monotonic()."""
        with self._lock:
            self._changed.wait(min(LOOK_AGAIN_S, max(0.0, until_s - time.monotonic())))

    def refusal(
        self, model: Model, need: Need, smaller: Iterable[tuple[Model, int]], lacking: Lacking
    ) -> MemoryExhausted:
        """For whoever has waited enough. `smaller`: the variants that could stand in, and what each needs."""
        if lacking.reason is Reason.NO_AVAILABLE_MEMORY:
            return self._refused_by_machine(model, need, smaller, lacking.left)
        if not lacking.evict and lacking.reason is not Reason.TOO_LARGE:
            later = "it is loaded when it is needed"
            return MemoryExhausted(BUDGET, need.together, lacking.left, later, reason=lacking.reason, what=model.name)
        return self._refused(model, need, smaller, lacking)

    def overrun(self) -> int:
        """Bytes by which the soft budget is passed; negative where it is not."""
        return -self._left()

    def _left(self, held: int | None = None) -> int:
        """Bytes within the soft budget. What is allocated counts once, whoever allocated it; the app's own heap counts
        as it is, where it outgrew what is kept for it."""
        held = self._measure().counted if held is None else held
        return self._governor.soft_bytes - max(self._governor.allocated_bytes, held - self._governor.reserved_bytes)

    def _left_of_machine(self, size: int) -> int:
        """What the system could give now, less what was promised to models that are being loaded."""
        available = machine.available()
        if available is None:
            return size
        promised = sum(each.size_bytes for each in self._workers() if each.state in (State.SPAWNING, State.LOADING))
        return available - promised

    def _refused_by_machine(
        self, model: Model, need: Need, smaller: Iterable[tuple[Model, int]], left: int
    ) -> MemoryExhausted:
        """The budget has room, and the machine does not."""
        fitting = _fitting(smaller, left)
        app = machine.largest_app()
        if fitting is not None:
            suggestion = fitting
        elif app is not None and app[1] > 0:
            suggestion = f"close {app[0]}, which holds {to_mb(app[1])} MB"
        else:
            suggestion = "close programs that hold memory, and ask again"
        return MemoryExhausted(
            MACHINE, need.together, left, suggestion, reason=Reason.NO_AVAILABLE_MEMORY, what=model.name
        )

    def _refused(
        self, model: Model, need: Need, smaller: Iterable[tuple[Model, int]], lacking: Lacking
    ) -> MemoryExhausted:
        # What could go is free as good as: a refusal that counted it as taken would suggest nothing that helps.
        workers = self._workers()
        idle = sum(each.size_bytes for each in workers if not each.busy)
        available = max(0, min(lacking.left + idle, self._governor.soft_bytes))
        suggestion = _suggestion(model, need, smaller, available, self._governor.soft_bytes, workers)
        if suggestion is None:
            suggestion = self._from_governor(model, need)
        return MemoryExhausted(BUDGET, need.together, available, suggestion, reason=lacking.reason, what=model.name)

    def _from_governor(self, model: Model, need: Need) -> str:
        """What the governor says where it is what refuses: a daemon that gives the app no more, and what to run."""
        try:
            self._governor.try_allocate(need.together, holder=model.name).release()
        except Exhausted as refused:
            return refused.suggestion
        except RequiresEviction:
            pass  # what is idle would do for the governor, and with the app's own heap it does not
        return "the app's own heap takes what is missing: close what it does not need, or raise the budget"


def _suggestion(
    model: Model,
    need: Need,
    smaller: Iterable[tuple[Model, int]],
    available: int,
    soft_bytes: int,
    workers: Iterable[Worker],
) -> str | None:
    """What would help, the easiest first; None where that is not this app's affair."""
    fitting = _fitting(smaller, available)
    if fitting is not None:
        return fitting
    if need.together > soft_bytes:
        return f"{too_large(model, need, soft_bytes)}; declare a smaller variant, or raise the budget"
    busy = sorted({each.name for each in workers if each.busy})
    if busy:
        return f"ask again when {' and '.join(busy)} has answered (wait_s waits for that)"
    return None


def _fitting(smaller: Iterable[tuple[Model, int]], available: int) -> str | None:
    """The largest declared variant that fits."""
    found = next(((other, size) for other, size in smaller if size <= available), None)
    if found is None:
        return None
    return f"ask {found[0].name} instead, its smaller variant, which needs {to_mb(found[1])} MB"


def over_hard(model: Model, size: int, held: int, hard_bytes: int) -> ResourceNotAvailableError:
    """Nothing is loaded beyond the hard limit, whatever the ledger says."""
    return ResourceNotAvailableError(
        "memory below the hard limit",
        size,
        0,
        f"nothing is loaded while the app holds {to_mb(held)} MB, beyond its hard limit of {to_mb(hard_bytes)} MB: "
        "close what it does not need",
        reason=Reason.PRESSURE,
        what=model.name,
    )


def variants(model: Model, models: Mapping[str, Model], size_of: Callable[[Model], int]) -> Iterator[tuple[Model, int]]:
    """The smaller variants of a model, the largest first as they are declared, with what each needs.

    Each is looked at when its turn comes; one whose files can't be read can't stand in.
    """
    while model.smaller is not None:
        model = models[model.smaller]
        try:
            size = size_of(model)
        except (ModelFailed, OSError):
            continue
        yield model, size


def counts(worker: Worker) -> bool:
    """Whether a worker serves, now or soon."""
    return worker.state.serves and worker.state is not State.EVICTING
