"""Threads by the hundred on one governor: never over the limit, never a leak, whatever is thrown at them and when."""

from __future__ import annotations

import contextlib
import ctypes
import dis
import functools
import gc
import random
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from admit_sdk import AllocationGuard, MemoryGovernor, ResourceNotAvailableError
from tests.gates import until

WHOLE = 1_000
CROWD = 200


class Thrown(BaseException):
    """Thrown from outside, as KeyboardInterrupt is: nothing on the way takes it for its own."""


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Guards that end because they are collected are what these tests make."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    gc.freeze()  # what there is already is not gone through each time
    try:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            yield
            gc.collect()
    finally:
        gc.unfreeze()
        sys.unraisablehook = before


def assert_whole(governor: MemoryGovernor) -> None:
    """Nothing is kept, nobody waits, the lock is free, and all of it can be had."""
    assert governor._lock.acquire(timeout=30)
    governor._lock.release()
    assert (governor.allocated_bytes, governor.holdings(), governor.waiting) == (0, {}, 0)
    governor.try_allocate(WHOLE).release()
    governor.wait_allocate(WHOLE, 0).release()


# The lock.


class Unlocked:
    """In the place of the lock: it lets everybody in."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class SlowRecord(dict[int, tuple[int, int, str]]):
    """Widens the race: between the look at what is free and the count of it lies a moment."""

    def __setitem__(self, serial: int, claim: tuple[int, int, str]) -> None:
        time.sleep(0.02)
        super().__setitem__(serial, claim)


def granted_at_once(locked: bool) -> int:
    """Bytes that eight threads were granted that asked at the same moment for a bit more than half each."""
    governor = MemoryGovernor(WHOLE, watch=False)
    governor._claims = SlowRecord()
    if not locked:
        governor._lock = Unlocked()  # type: ignore[assignment]
    start = threading.Barrier(8)
    done = threading.Barrier(8)
    granted: list[int] = []

    def ask() -> None:
        start.wait()
        with contextlib.suppress(ResourceNotAvailableError), contextlib.ExitStack() as stack:
            try:
                granted.append(stack.enter_context(governor.try_allocate(600)).reserved_bytes and 600)
            finally:
                done.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sum(granted)


def test_the_race_is_real_without_the_lock_each_round_grants_too_much() -> None:
    """The same crowd, the same slow record; only the lock is taken out."""
    with without_warnings():
        assert all(granted_at_once(locked=False) > WHOLE for _ in range(10))
    assert [granted_at_once(locked=True) for _ in range(10)] == [600] * 10


# Hundreds.


class Ledger:
    """The test's own count, apart from the governor's: what threads hold at this moment, by their word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held = 0
        self.most = 0
        self.granted = 0

    def add(self, size: int) -> None:
        with self._lock:
            self.held += size
            self.granted += 1
            self.most = max(self.most, self.held)

    def take(self, size: int) -> None:
        with self._lock:
            self.held -= size


def use(governor: MemoryGovernor, ledger: Ledger, dice: random.Random) -> None:
    """One allocation, in one of the ways that there are, ended in one of the ways that there are."""
    size = dice.randint(1, WHOLE // 3)
    if dice.random() < 0.5:
        guard = governor.try_allocate(size, priority=dice.randint(0, 2))
    else:
        guard = governor.wait_allocate(size, dice.choice([0, 0.01, 0.2]), priority=dice.randint(0, 2))
    with guard:
        ledger.add(size)
        try:
            if dice.random() < 0.3:
                smaller = dice.randint(1, size)
                ledger.take(size - smaller)
                size = smaller
                guard.resize(smaller)
            if dice.random() < 0.3:
                raise KeyError("the app's own fault")
            if dice.random() < 0.3:
                guard.hand_over().take_over()
            if dice.random() < 0.3:
                time.sleep(0)
        finally:
            ledger.take(size)


def test_two_hundred_threads_never_hold_more_than_there_is() -> None:
    governor = MemoryGovernor(WHOLE, watch=False)
    ledger = Ledger()
    start = threading.Barrier(CROWD)

    def work(seed: int) -> None:
        dice = random.Random(seed)
        start.wait()
        for _ in range(25):
            with contextlib.suppress(ResourceNotAvailableError, KeyError):
                use(governor, ledger, dice)
        if seed % 3 == 0:  # these die with what they hold
            with contextlib.suppress(ResourceNotAvailableError):
                died_with.append(governor.try_allocate(1))

    died_with: list[AllocationGuard] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CROWD)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert ledger.granted > CROWD
    assert WHOLE * 0.5 < ledger.most <= WHOLE
    assert all(guard.released for guard in died_with)
    assert_whole(governor)


# Exceptions, thrown from outside.


def throw_at(thread: threading.Thread) -> None:
    """Have CPython raise Thrown in that thread, at the next point where it looks for such a thing."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Thrown))


@pytest.mark.slow
def test_a_crowd_at_which_exceptions_are_thrown_at_random_points() -> None:
    governor = MemoryGovernor(WHOLE, watch=False)
    ends_s = time.monotonic() + 4
    thrown_at = 0
    most = 0

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < ends_s:
            with contextlib.suppress(Thrown, ResourceNotAvailableError, KeyError):
                use(governor, Ledger(), dice)

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        with without_warnings():
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(40)]
            for each in threads:
                each.start()
            dice = random.Random(3)
            while time.monotonic() < ends_s:
                throw_at(dice.choice(threads))
                thrown_at += 1
                most = max(most, sum(governor.holdings().values()))
                time.sleep(0.0005)
            for each in threads:
                each.join(30)
                assert not each.is_alive()
    finally:
        threading.excepthook = hook
    assert thrown_at > 100
    assert 0 < most <= WHOLE
    assert_whole(governor)


CHECKED_AFTER = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"}
"""Where CPython looks whether anything is to be thrown (ceval.c: CHECK_EVAL_BREAKER); nowhere else can it come."""


@functools.cache
def names_of(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


class Thrower:
    """Throws at the nth of all points in the SDK's own code at which CPython could."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "admit_sdk" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        names = names_of(frame.f_code)
        before = ["RESUME"]

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                if before[0] in CHECKED_AFTER and not self.where:
                    self.left -= 1
                    if self.left < 0:
                        self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                        raise Thrown(self.where)
                before[0] = names.get(frame.f_lasti, "")
            return step

        return step


def all_that_a_guard_can_do(governor: MemoryGovernor) -> None:
    with governor.try_allocate(100) as one:
        one.resize(50)
        with governor.wait_allocate(20, 1.0, priority=1) as other:
            other.hand_over().take_over()
            with contextlib.suppress(ResourceNotAvailableError):
                governor.try_allocate(WHOLE)
        with contextlib.suppress(ResourceNotAvailableError):
            governor.wait_allocate(WHOLE, 0.0)
        one.resize(200)
    governor.try_allocate(1).release()


@pytest.mark.skipif(not hasattr(sys, "settrace") or sys.gettrace() is not None, reason="somebody else traces")
def test_an_exception_at_each_point_where_one_can_come_leaves_nothing_behind() -> None:
    """One run for each point; the last one has no such point left, and runs through."""
    points: list[str] = []
    while True:
        governor = MemoryGovernor(WHOLE, watch=False)
        governor.this_thread()
        thrower = Thrower(len(points))
        with without_warnings():
            sys.settrace(thrower)
            try:
                all_that_a_guard_can_do(governor)
            except Thrown as thrown:
                thrown.__traceback__ = None
            finally:
                sys.settrace(None)
        try:
            assert_whole(governor)
        except AssertionError as problem:
            raise AssertionError(f"after an exception at {thrower.where}") from problem
        if not thrower.where:
            break
        points.append(thrower.where)
    if not points and sys.version_info[:2] == (3, 12):
        pytest.skip("Python 3.12 tells a tracer of no opcodes where it asks for them in the frame's first event")
    assert len(points) > 100
    assert {each.partition(":")[0] for each in points} >= {"Claims._grant", "Claims._settle", "Claims.replace"}


def test_what_is_given_back_under_the_lock_neither_hangs_nor_gets_lost() -> None:
    """As the garbage collector and signals may have it: in the thread that holds the lock."""
    governor = MemoryGovernor(WHOLE, watch=False)
    kept = [governor.try_allocate(100) for _ in range(5)]
    with without_warnings(), governor._lock:
        kept.pop().release()
        with kept.pop():
            pass
        kept.clear()
    assert governor.allocated_bytes == 0


class Owner:
    """An object of the app that gives its guard back when it is collected, which in a cycle the collector does."""

    def __init__(self, guard: AllocationGuard) -> None:
        self.guard = guard
        self.itself = self

    def __del__(self) -> None:
        self.guard.release()


def test_an_app_whose_objects_release_when_they_are_collected_never_hangs() -> None:
    governor = MemoryGovernor(WHOLE, watch=False)
    kept: list[AllocationGuard] = []  # the guards themselves are not collected: only what releases them is
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(1, 1, 1)  # the collector comes at nearly every allocation, under the lock as well
    try:
        for _ in range(500):
            kept.append(governor.try_allocate(1))
            Owner(kept[-1])
            governor.holdings()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    gc.collect()
    assert_whole(governor)


def test_those_who_wait_by_the_hundred_all_get_their_turn() -> None:
    governor = MemoryGovernor(WHOLE, watch=False)
    held = governor.try_allocate(WHOLE)
    done: list[int] = []

    def work(size: int) -> None:
        with governor.wait_allocate(size, 100, priority=size % 3):
            done.append(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in range(400, 400 + CROWD)]
    for each in threads:
        each.start()
    until(lambda: governor.waiting == CROWD)
    held.release()
    for each in threads:
        each.join(60)
    assert sorted(done) == list(range(400, 400 + CROWD))
    assert_whole(governor)
