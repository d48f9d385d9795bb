"""Who waits for room: by his own clock, until his own deadline, and no longer than the pool is open."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from admit_sdk.errors import Aborted, DeadlinePassed, MemoryExhausted, ModelFailed
from admit_sdk.jobs import Ticket
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Text
from admitd.core.units import MIB
from admitd.core.verdict import Reason
from tests.gates import until
from tests.sdk.counting import Counting, Make, ask, model, states

PATIENT_S = 60.0
"""Longer than any of these tests: who came back earlier did not wait for that."""


@pytest.fixture
def pool(make: Make, backend: Counting) -> ModelPool:
    """It has room for one of its two models."""
    backend.pace = threading.Semaphore(0)
    return make(model("a", 200), model("b", 200))


@pytest.fixture
def answering(pool: ModelPool, backend: Counting) -> Ticket[Text]:
    """What `a` is at, so that it may not go before its one token may come."""
    ticket = pool.submit("a", ask(tokens=1))
    until(lambda: backend.open_requests == 1)
    return ticket


class Patient(threading.Thread):
    """Asks for `b`, and waits long for the room that it needs."""

    def __init__(self, pool: ModelPool, wait: Callable[[], object] | None = None) -> None:
        super().__init__(daemon=True)
        self.told: object = None
        self._pool = pool
        self._wait = wait
        slot = pool._slots["b"]
        before = len(slot.waiting)
        self.start()
        # It has taken its place, and looks for room: what `b` needs is known by then.
        until(lambda: wait is not None or (len(slot.waiting) > before and slot.need is not None))

    def run(self) -> None:
        try:
            wait = self._wait or (lambda: self._pool.ask("b", ask(tokens=1), wait_s=PATIENT_S).tokens)
            self.told = wait()
        except Exception as why:
            self.told = why

    def heard(self) -> object:
        self.join(30)
        assert not self.is_alive(), "it still waits"
        return self.told


def test_who_waits_does_not_make_others_wait(pool: ModelPool, answering: Ticket[Text], backend: Counting) -> None:
    patient = Patient(pool)
    with pytest.raises(MemoryExhausted, match="ask again when a has answered"):
        pool.submit("b", ask())
    assert patient.is_alive()
    assert backend.pace is not None
    backend.pace.release(2)
    assert patient.heard() == 1
    assert answering.result(30).tokens == 1


@pytest.mark.parametrize("beside_another", [False, True])
def test_a_deadline_ends_the_wait_for_room(pool: ModelPool, answering: Ticket[Text], beside_another: bool) -> None:
    patient = Patient(pool) if beside_another else None
    late = Patient(pool, lambda: pool.ask("b", ask(), wait_s=PATIENT_S, timeout_s=0.1))
    told = late.heard()
    assert isinstance(told, DeadlinePassed)
    assert str(told) == "the request to b was not answered before its deadline"
    assert patient is None or patient.is_alive()
    assert not answering.is_over


def test_who_waits_in_the_governors_line_is_waited_for_too(make: Make, backend: Counting) -> None:
    pool = make(model("b", 50))
    held = pool.governor.try_allocate(200 * MIB)
    line = threading.Thread(target=lambda: pool.governor.wait_allocate(200 * MIB, PATIENT_S).release(), daemon=True)
    line.start()
    until(lambda: pool.governor.waiting == 1)
    with pytest.raises(MemoryExhausted, match="others wait ahead for it") as told:
        pool.submit("b", ask())
    assert told.value.reason is Reason.QUEUED
    patient = Patient(pool)
    held.release()
    assert patient.heard() == 1
    line.join(30)
    assert not line.is_alive()


def test_a_request_that_is_over_waits_for_no_room(pool: ModelPool, answering: Ticket[Text]) -> None:
    patient = Patient(pool)
    pool._slots["b"].waiting.take_all()[0].end(error=ModelFailed("somebody else's load of it failed"))
    assert isinstance(patient.heard(), ModelFailed)
    assert not answering.is_over


def test_closing_ends_the_wait_for_room(pool: ModelPool, answering: Ticket[Text]) -> None:
    patients = [Patient(pool), Patient(pool)]
    without_a_request = Patient(pool, lambda: pool.ensure_workers("b", wait_s=PATIENT_S))
    assert pool.close(30)
    for each in patients:
        told = each.heard()
        assert isinstance(told, Aborted)
        assert str(told) == "the pool was closed"
    told = without_a_request.heard()
    assert isinstance(told, ModelFailed)
    assert str(told) == "the pool is closed; open a new one"
    with pytest.raises(Aborted):
        answering.result(30)


def test_who_waits_is_answered_by_the_model_that_another_had_loaded(
    pool: ModelPool, answering: Ticket[Text], backend: Counting
) -> None:
    patients = [Patient(pool) for _ in range(4)]
    assert backend.pace is not None
    backend.pace.release(5)
    assert [each.heard() for each in patients] == [1] * 4
    assert backend.loads == ["a", "b"]
    assert states(pool).keys() == {"b"}


def test_a_load_that_fails_ends_the_wait_of_all_who_wanted_it(
    pool: ModelPool, answering: Ticket[Text], backend: Counting
) -> None:
    def fail(_: Model) -> None:
        raise OSError("the disk is gone")

    patients = [Patient(pool) for _ in range(4)]
    backend.at_load = fail
    assert backend.pace is not None
    backend.pace.release(1)
    for each in patients:
        told = each.heard()
        assert isinstance(told, ModelFailed)
        assert str(told) == "b could not be loaded: OSError: the disk is gone"
    assert backend.loads == ["a", "b"]
