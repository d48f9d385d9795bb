"""Whatever one thread and its short-lived ones do with guards, in any order: the count is right, and never too much."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from admit_sdk import AllocationGuard, Exhausted, GuardReleased, MemoryGovernor, RequiresEviction
from tests.sdk.candidates import Model, unload_all

WHOLE = 1_000
SIZES = st.integers(1, WHOLE + 100)


class Thrown(Exception):
    """What the app throws."""


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Guards(RuleBasedStateMachine):
    """`held` is the test's own count: what each guard that has not ended keeps."""

    guards = Bundle("guards")

    def __init__(self) -> None:
        super().__init__()
        self.governor = MemoryGovernor(WHOLE, watch=False)
        self.held: dict[AllocationGuard, int] = {}
        self.models: list[Model] = []
        self.used_s = 0

    @property
    def free(self) -> int:
        return WHOLE - sum(self.held.values()) - sum(model.size_bytes for model in self.models)

    def ask(self, size: int, how: Callable[[], AllocationGuard]) -> AllocationGuard | None:
        """Ask, and see that the answer is the one that the test's own count gives."""
        free = self.free
        try:
            guard = how()
        except (Exhausted, RequiresEviction) as refused:
            assert size > free
            assert (refused.requested, refused.available) == (size, free)
            idle = sum(model.size_bytes for model in self.models if not model.busy)
            assert isinstance(refused, RequiresEviction) == (size <= WHOLE and size - free <= idle)
            return None
        assert size <= free
        return guard

    @rule(target=guards, size=SIZES)
    def allocate(self, size: int) -> object:
        return self.keep(size, self.ask(size, lambda: self.governor.try_allocate(size, holder="one")))

    @rule(target=guards, beyond=st.integers(-1, 1))
    def allocate_about_all(self, beyond: int) -> object:
        size = self.free + beyond
        return self.keep(size, self.ask(size, lambda: self.governor.try_allocate(size))) if size > 0 else multiple()

    @rule(target=guards, size=SIZES)
    def wait(self, size: int) -> object:
        return self.keep(size, self.ask(size, lambda: self.governor.wait_allocate(size, 0.0)))

    def keep(self, size: int, guard: AllocationGuard | None) -> object:
        if guard is None:
            return multiple()
        self.held[guard] = size
        return guard

    @rule(guard=guards)
    def release(self, guard: AllocationGuard) -> None:
        """Also one that was released before."""
        guard.release()
        self.held.pop(guard, None)
        assert guard.released

    @rule(guard=guards, size=SIZES)
    def resize(self, guard: AllocationGuard, size: int) -> None:
        before = self.held.get(guard)
        if before is None:
            with pytest.raises(GuardReleased):
                guard.resize(size)
        elif size <= before or size - before <= self.free:
            guard.resize(size)
            self.held[guard] = size
        else:
            with pytest.raises((Exhausted, RequiresEviction)):
                guard.resize(size)

    @rule(guard=guards)
    def throw(self, guard: AllocationGuard) -> None:
        with pytest.raises(Thrown), guard:
            raise Thrown
        self.held.pop(guard, None)

    @rule(guard=consumes(guards))
    def hand_over_to_a_thread_that_dies(self, guard: AllocationGuard) -> None:
        if guard in self.held:
            in_a_thread(guard.take_over)
            del self.held[guard]
        assert guard.released

    @rule(size=st.integers(1, 300))
    def forget(self, size: int) -> None:
        if size <= self.free:
            with pytest.warns(ResourceWarning):
                self.governor.try_allocate(size)

    @rule(target=guards, size=st.integers(1, 300), hands_over=st.booleans())
    def allocate_in_a_thread(self, size: int, hands_over: bool) -> object:
        made: list[AllocationGuard] = []

        def work() -> None:
            guard = self.ask(size, lambda: self.governor.try_allocate(size))
            if guard is not None:
                made.append(guard.hand_over() if hands_over else guard)

        in_a_thread(work)
        return self.keep(size, made[0]) if made and hands_over else multiple(*made)

    @rule(size=st.integers(1, 300), eager=st.booleans(), busy=st.booleans())
    def load_a_model(self, size: int, eager: bool, busy: bool) -> None:
        if size <= self.free:
            self.used_s += 1
            self.models.append(Model(self.governor, f"m{self.used_s}", size, self.used_s, eager=eager, busy=busy))

    @rule(needed=SIZES)
    def evict(self, needed: int) -> None:
        plan = self.governor.evictions.plan(needed)
        self.governor.evictions.put(plan or (), "the test wants it")
        gone = self.governor.evictions.work_off()
        assert gone == len(plan or ())
        assert plan is None or sum(each.size_bytes for each in plan) >= needed
        self.models = [model for model in self.models if not model.evicted]
        assert all(not model.busy for model in plan or ())

    @invariant()
    def the_count_is_right(self) -> None:
        assert self.governor.free_bytes == self.free >= 0
        assert self.governor.allocated_bytes == sum(self.governor.holdings().values()) == WHOLE - self.free
        assert all(guard.reserved_bytes == size for guard, size in self.held.items())

    def teardown(self) -> None:
        unload_all(self.governor)
        for guard in self.held:
            guard.release()
        assert self.governor.free_bytes == WHOLE


TestGuards = Guards.TestCase
TestGuards.settings = settings(settings(), max_examples=60, stateful_step_count=40)
