"""What a governor promises to one thread and to a few; the hundreds are in test_governor_races.py."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import pytest

from admit_sdk import (
    AllocationGuard,
    Exhausted,
    GuardReleased,
    MemoryGovernor,
    RequiresEviction,
    ResourceNotAvailableError,
)
from admitd.core.units import MIB
from admitd.core.verdict import Reason
from tests.gates import until
from tests.sdk.candidates import Model, unload_all


@pytest.fixture
def governor() -> Iterator[MemoryGovernor]:
    made = MemoryGovernor(1_000, name="chat", watch=False)
    yield made
    unload_all(made)
    assert made.close()


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


# Limits.


def test_what_is_reserved_for_the_app_itself_cannot_be_allocated() -> None:
    governor = MemoryGovernor("1GiB", "24MiB", watch=False)

    assert (governor.whole_bytes, governor.free_bytes) == (1_000 * MIB, 1_000 * MIB)


@pytest.mark.parametrize(
    ("limit", "reserved", "said"),
    [
        (0, 0, "limit is an amount of bytes, 1 or more, not 0; write for example '8GiB'"),
        (-5, 0, "limit is an amount of bytes, 1 or more, not -5"),
        ("much", 0, "'much' is not an amount of memory"),
        (100, -1, "reserved is an amount of bytes, 0 or more, not -1"),
        (100, 100, r"reserved \(100\) leaves nothing of the limit \(100\)"),
        (True, 0, "limit is an amount of bytes, 1 or more, not True"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_what_to_write(limit: int | str, reserved: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MemoryGovernor(limit, reserved)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1GiB", None])
def test_a_size_that_is_none_is_refused(governor: MemoryGovernor, size: int) -> None:
    with governor.try_allocate(10) as guard:
        for ask in (governor.try_allocate, lambda size: governor.wait_allocate(size, 0), guard.resize):
            with pytest.raises(ValueError, match="a size is a whole number of bytes, 1 or more, not"):
                ask(size)
    assert governor.allocated_bytes == 0


# Refusals.


def test_a_refusal_says_what_was_asked_what_is_free_and_what_would_help(governor: MemoryGovernor) -> None:
    held = governor.try_allocate(700, holder="gemma")

    with pytest.raises(Exhausted) as refused:
        governor.try_allocate(400, holder="qwen")

    assert (refused.value.requested, refused.value.available) == (400, 300)
    assert (refused.value.resource, refused.value.required) == ("memory", 400)
    assert refused.value.reason is Reason.NO_HEADROOM
    assert refused.value.suggestion == "wait until gemma gives some back (wait_allocate)"
    assert isinstance(refused.value, ResourceNotAvailableError)
    held.release()


def test_amounts_in_a_message_are_mib_and_err_on_the_safe_side() -> None:
    assert str(Exhausted(3 * MIB + 1, 2 * MIB - 1, "close a window", what="gemma")) == (
        "gemma needs 4 MB of memory, and 1 MB are free: close a window"
    )


def test_what_never_fits_is_refused_as_too_large_also_by_waiting(governor: MemoryGovernor) -> None:
    for ask in (lambda: governor.try_allocate(1_001), lambda: governor.wait_allocate(1_001, 60)):
        with pytest.raises(Exhausted, match="no unloading would make it fit") as refused:
            ask()
        assert refused.value.reason is Reason.TOO_LARGE


def test_where_idle_models_are_in_the_way_the_refusal_names_them_in_order(governor: MemoryGovernor) -> None:
    models = [
        Model(governor, "eager", 200, 1, eager=True),
        Model(governor, "busy", 200, 2, busy=True),
        Model(governor, "late", 200, 4),
        Model(governor, "early", 200, 3),
    ]

    with pytest.raises(RequiresEviction) as refused:
        governor.try_allocate(500, holder="new")
    assert [each.name for each in refused.value.candidates] == ["early", "late"]
    assert str(refused.value).endswith("evict early, late first, in this order")

    with pytest.raises(Exhausted):
        governor.try_allocate(900)
    assert [each.evicted for each in models] == [0, 0, 0, 0]


@pytest.mark.parametrize("asked", [300, 400, 500])
def test_where_a_daemon_gives_no_more_the_apps_own_idle_models_go_first(governor: MemoryGovernor, asked: int) -> None:
    """500 may be had, and an idle model has 400 of them; the daemon is asked for more in any case."""
    wanted: list[int] = []
    Model(governor, "idle", 400)
    governor.ask_before_growing(500, lambda more: wanted.append(more) or "run: admit unload llm")
    with pytest.raises(RequiresEviction, match="evict idle first") as refused:
        governor.try_allocate(asked, holder="new")
    assert (refused.value.available, wanted) == (100, [400 + asked])
    with pytest.raises(Exhausted, match="run: admit unload llm"):
        governor.try_allocate(501)
    governor.ask_before_growing(1_000, None)


def test_nobody_goes_who_is_not_needed(governor: MemoryGovernor) -> None:
    models = [Model(governor, name, size, used) for used, (name, size) in enumerate([("small", 100), ("large", 900)])]

    with pytest.raises(RequiresEviction) as refused:
        governor.try_allocate(500)

    assert [each.name for each in refused.value.candidates] == ["large"]
    assert governor.evictions.plan(950) == tuple(models)


# How a guard ends.


def test_a_guard_ends_with_its_block(governor: MemoryGovernor) -> None:
    with governor.try_allocate(600, holder="gemma") as guard:
        assert (guard.reserved_bytes, guard.holder, guard.released) == (600, "gemma", False)
        assert (governor.allocated_bytes, governor.free_bytes) == (600, 400)
        assert governor.holdings() == {"gemma": 600}
    assert (guard.reserved_bytes, guard.released, governor.allocated_bytes) == (0, True, 0)


def test_a_guard_ends_with_an_exception(governor: MemoryGovernor) -> None:
    with pytest.raises(KeyError), governor.try_allocate(600):
        raise KeyError

    assert governor.allocated_bytes == 0


def test_a_guard_ends_once_however_often_it_is_ended(governor: MemoryGovernor) -> None:
    other = governor.try_allocate(300)
    with governor.try_allocate(600) as guard:
        guard.release()
        guard.release()
    guard.release()
    del guard
    gc.collect()

    assert governor.allocated_bytes == 300
    other.release()


def test_a_guard_that_is_forgotten_ends_when_it_is_collected_with_a_warning(governor: MemoryGovernor) -> None:
    with pytest.warns(ResourceWarning, match="600 bytes kept for gemma were never released"):
        governor.try_allocate(600, holder="gemma")

    assert governor.free_bytes == 1_000


def test_a_guard_in_a_cycle_ends_when_the_cycle_is_collected(governor: MemoryGovernor) -> None:
    with pytest.warns(ResourceWarning):
        cycle: list[object] = [governor.try_allocate(600)]
        cycle.append(cycle)
        del cycle
        gc.collect()

    assert governor.free_bytes == 1_000


def test_a_guard_ends_with_its_thread_though_others_still_see_it(governor: MemoryGovernor) -> None:
    seen: list[AllocationGuard] = []
    in_a_thread(lambda: seen.append(governor.try_allocate(600)))

    assert seen[0].released
    assert governor.allocated_bytes == 0
    with pytest.raises(GuardReleased, match="was released; allocate anew"):
        seen[0].resize(10)


def test_a_thread_that_raises_gives_back_what_it_held(
    governor: MemoryGovernor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    seen: list[AllocationGuard] = []

    def work() -> None:
        seen.append(governor.try_allocate(600))
        raise KeyError

    in_a_thread(work)
    assert governor.allocated_bytes == 0


def test_a_guard_that_is_handed_over_outlives_its_thread_and_ends_with_the_next(governor: MemoryGovernor) -> None:
    seen: list[AllocationGuard] = []
    in_a_thread(lambda: seen.append(governor.try_allocate(600).hand_over()))
    assert governor.allocated_bytes == 600

    in_a_thread(seen[0].take_over)
    assert (governor.allocated_bytes, seen[0].released) == (0, True)


def test_a_guard_can_be_taken_over_while_its_thread_lives(governor: MemoryGovernor) -> None:
    guard = governor.try_allocate(600)

    def work() -> None:
        with guard.take_over():
            pass

    in_a_thread(work)
    assert guard.released
    with pytest.raises(GuardReleased):
        guard.take_over()
    with pytest.raises(GuardReleased):
        guard.hand_over()


def test_guards_outlive_the_name_of_their_governor(governor: MemoryGovernor) -> None:
    guard = MemoryGovernor(100, watch=False).try_allocate(60)

    assert guard.reserved_bytes == 60
    guard.release()


# Sizes.


def test_a_measured_size_replaces_the_estimate(governor: MemoryGovernor) -> None:
    with governor.try_allocate(600) as guard:
        guard.resize(450)
        assert (guard.reserved_bytes, governor.free_bytes) == (450, 550)
        guard.resize(1_000)
        assert governor.free_bytes == 0


def test_growing_may_be_refused_and_changes_nothing_then(governor: MemoryGovernor) -> None:
    with governor.try_allocate(600) as guard, governor.try_allocate(300):
        with pytest.raises(Exhausted) as refused:
            guard.resize(800)
        assert (refused.value.requested, refused.value.available) == (200, 100)
        assert guard.reserved_bytes == 600


def test_a_guard_reports_what_is_kept_and_what_is_really_used(governor: MemoryGovernor) -> None:
    with governor.try_allocate(600) as guard:
        assert guard.used_bytes is None
        guard.report_used(550)
        assert (guard.reserved_bytes, guard.used_bytes) == (600, 550)
        guard.measure_by(lambda: 580)
        assert guard.used_bytes == 580


# The line.


class Waiting:
    """A thread that waits for memory, and keeps it until it is told to go."""

    def __init__(self, governor: MemoryGovernor, size: int, priority: int = 0, order: list[str] | None = None) -> None:
        self.got = threading.Event()
        self.go = threading.Event()
        self.refused: ResourceNotAvailableError | None = None
        self._governor, self._size, self._priority, self._order = governor, size, priority, order
        self.thread = threading.Thread(target=self._run, name=f"{size}@{priority}", daemon=True)
        before = governor.waiting
        self.thread.start()
        until(lambda: governor.waiting > before or self.got.is_set())

    def _run(self) -> None:
        try:
            with self._governor.wait_allocate(self._size, 60, priority=self._priority):
                if self._order is not None:
                    self._order.append(self.thread.name)
                self.got.set()
                self.go.wait(60)
        except ResourceNotAvailableError as problem:
            self.refused = problem

    def end(self) -> None:
        self.go.set()
        self.thread.join(60)


def test_who_waits_gets_his_turn_by_priority_then_by_arrival(governor: MemoryGovernor) -> None:
    order: list[str] = []
    held = governor.try_allocate(1_000)
    line = [Waiting(governor, size, priority, order) for size, priority in [(901, 0), (902, 5), (903, 0), (904, 5)]]
    for each in line:
        each.go.set()
    held.release()

    for each in line:
        each.end()
    assert order == ["902@5", "904@5", "901@0", "903@0"]
    assert (governor.allocated_bytes, governor.waiting) == (0, 0)


def test_nobody_overtakes_who_waits_except_by_priority(governor: MemoryGovernor) -> None:
    held = governor.try_allocate(500)
    one = Waiting(governor, 600)

    with pytest.raises(Exhausted, match="others wait ahead for it") as refused:
        governor.try_allocate(100)
    assert refused.value.reason is Reason.QUEUED
    governor.try_allocate(100, priority=1).release()

    held.resize(550)  # who holds something goes before those who wait for him
    held.release()
    assert one.got.wait(60)
    one.end()


def test_a_guard_that_is_forgotten_wakes_who_waits(governor: MemoryGovernor) -> None:
    kept = [governor.try_allocate(1_000)]
    one = Waiting(governor, 600)
    with pytest.warns(ResourceWarning):
        kept.clear()
    assert one.got.wait(60)
    one.end()


def test_a_thread_that_dies_wakes_who_waits(governor: MemoryGovernor) -> None:
    kept: list[AllocationGuard] = []
    may_die = threading.Event()

    def work() -> None:
        kept.append(governor.try_allocate(1_000))
        may_die.wait(60)

    holder = threading.Thread(target=work)
    holder.start()
    until(lambda: kept)
    one = Waiting(governor, 600)
    may_die.set()
    assert one.got.wait(60)
    one.end()
    holder.join()


def test_who_waited_in_vain_leaves_the_line(governor: MemoryGovernor) -> None:
    held = governor.try_allocate(1_000, holder="gemma")

    with pytest.raises(Exhausted, match="wait until gemma gives some back"):
        governor.wait_allocate(600, 0.01)
    assert governor.waiting == 0

    held.release()
    governor.try_allocate(1_000).release()


def test_waiting_with_eviction_unloads_what_is_idle() -> None:
    with MemoryGovernor(1_000) as governor:
        model = Model(governor, "idle", 900)
        with governor.wait_allocate(500, 60, evict=True) as guard:
            assert guard.reserved_bytes == 500
        assert model.evicted == 1


def test_a_governor_that_nobody_holds_is_collected_with_its_threads() -> None:
    governor = MemoryGovernor(1_000, name="short-lived")
    governor.try_allocate(1).release()
    until(lambda: any(each.name == "admit-pressure-short-lived" for each in threading.enumerate()))
    del governor
    gc.collect()

    until(lambda: not any(each.name == "admit-pressure-short-lived" for each in threading.enumerate()))
