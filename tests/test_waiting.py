"""A request that waits for its turn: what fails at one look ends no wait, and no way out leaves its place behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from admitd import waiting as subject
from admitd.asks import Answer, Ask
from admitd.core.terms import Capacity
from admitd.flight import Flight
from admitd.gate import Gate, Unknown
from admitd.journal import Journal
from admitd.processes.table import CannotSee
from admitd.reservations import Busy, NotRecorded
from tests.core.worlds import capacity
from tests.gates import ROOM, FakeTable, Quiet, decided, files, gate, held, me, no_checks, refused, reservations, word

PASSING = [
    pytest.param(CannotSee("ps gave no answer"), "unseen", id="unseen"),
    pytest.param(Busy("the lock is held"), "busy", id="busy"),
    pytest.param(NotRecorded("no space left"), "not-recorded", id="not recorded"),
]


class Client:
    """Who asked, and stays until `leave`, or until its connection breaks in a way that nobody foresaw."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._broken: Exception | None = None

    async def receive(self) -> dict[str, str]:
        await self._gone.wait()
        if self._broken is not None:
            raise self._broken
        return {"type": "http.disconnect"}

    def leave(self, broken: Exception | None = None) -> None:
        self._broken = broken
        self._gone.set()


class Stage:
    """A host that has room for one of two, and what its process table does at each look from the next one on."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.declared: Capacity = ROOM
        self.table = FakeTable()
        self.gate = Gate(lambda: (self.declared, ()), self.table, Quiet(), reservations(where), no_checks)
        self.taken = held(decided(self.gate, Ask("first", me()))[0]).id
        self.looks: list[Exception | None] = []
        self.looked = 0
        self.table.on_look = self._look

    def _look(self) -> None:
        self.looked += 1
        problem = self.looks.pop(0) if self.looks else None
        if problem is not None:
            raise problem

    def make_room(self) -> None:
        reservations(self.where).give_back(self.taken)

    @property
    def waiting(self) -> list[str]:
        return files(self.where, "waiting")

    def play(self, story: Callable[[Flight], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            flight = Flight(self.gate)
            try:
                await asyncio.wait_for(story(flight), 30)
            finally:
                flight.close()

        asyncio.run(run())

    async def after(self, looks: int) -> None:
        """Wait until so many looks were taken."""
        while self.looked < looks:
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ASK_AGAIN_S", 0.02)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "state")


def waits(flight: Flight, wait_s: float = 60.0, client: Client | None = None) -> asyncio.Task[Answer]:
    return asyncio.create_task(subject.ask_until(flight, Ask("second", None, wait_s=wait_s), client or Client()))


@pytest.mark.parametrize(("problem", "reason"), PASSING)
@pytest.mark.parametrize("failing", [[0], [1], [0, 1, 2]], ids=["first", "second", "three"])
def test_looks_that_fail_end_no_wait(stage: Stage, problem: Exception, reason: str, failing: list[int]) -> None:
    stage.looks = [problem if number in failing else None for number in range(4)]

    async def story(flight: Flight) -> None:
        waiting = waits(flight)
        await stage.after(looks=4)
        assert not waiting.done()
        await asyncio.to_thread(stage.make_room)
        assert word(await waiting) == "Admitted"

    stage.play(story)
    assert stage.waiting == []


@pytest.mark.parametrize(("problem", "reason"), PASSING)
def test_who_waits_keeps_his_place_through_a_look_that_fails(stage: Stage, problem: Exception, reason: str) -> None:
    first = decided(stage.gate, Ask("second", wait_s=60.0))[0]
    before = stage.waiting
    stage.looks = [problem]
    failed = decided(stage.gate, Ask("second", wait_s=60.0, waiter=first.waiter))[0]
    assert (word(failed), failed.waiter, stage.waiting) == (reason, first.waiter, before)


@pytest.mark.parametrize(("problem", "reason"), PASSING)
def test_at_the_end_he_is_told_what_was_so_last_and_where_he_stood(
    stage: Stage, problem: Exception, reason: str
) -> None:
    decided(stage.gate, Ask("second", wait_s=60.0, arrived_s=0.0))
    ahead = stage.waiting
    stage.looked = 0
    stage.looks = [None, *[problem] * 1000]

    async def story(flight: Flight) -> None:
        told = refused(await waits(flight, wait_s=0.3))
        assert (told.reason.value, told.queue_position) == (reason, 2)
        assert str(problem) in told.message and told.budget == ROOM.services["second"].budget

    stage.play(story)
    assert stage.looked > 1 and stage.waiting == ahead


def test_the_last_refusal_counts_and_not_what_failed_before_it(stage: Stage) -> None:
    stage.looks = [CannotSee("ps gave no answer")]

    async def story(flight: Flight) -> None:
        told = refused(await waits(flight, wait_s=0.3))
        assert (told.reason.value, told.queue_position) == ("no-headroom", 1)
        assert "200 MB short" in told.message

    stage.play(story)
    assert stage.waiting == []


def test_where_no_place_could_be_written_it_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    publish = stage.gate.records._publish

    def write(name: str, content: bytes) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        publish(name, content)

    monkeypatch.setattr(stage.gate.records, "_publish", write)

    async def story(flight: Flight) -> None:
        waiting = waits(flight)
        await stage.after(looks=1)
        assert stage.waiting == []
        full.clear()
        while not stage.waiting:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        await asyncio.to_thread(stage.make_room)
        assert word(await waiting) == "Admitted"

    stage.play(story)
    assert stage.waiting == []


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
def test_who_need_not_or_cannot_wait_is_told_at_once(stage: Stage, wait_s: float) -> None:
    """Without a time to wait at the first look that fails; and what will never fit whatever the time."""
    stage.looks = [] if wait_s else [CannotSee("ps gave no answer")]
    if wait_s:
        stage.declared = capacity(*ROOM.services.values(), pool_mb=500, live_veto=False)

    async def story(flight: Flight) -> None:
        assert word(await waits(flight, wait_s)) == ("too-large" if wait_s else "unseen")

    stage.play(story)
    assert (stage.looked, stage.waiting) == (1, [])


# Every way out.


@pytest.mark.parametrize("fault", [ZeroDivisionError("oh"), OSError(5, "Input/output error")])
def test_a_fault_leaves_no_place_behind(stage: Stage, fault: Exception) -> None:
    stage.looks = [None, CannotSee("ps gave no answer"), fault]

    async def story(flight: Flight) -> None:
        with pytest.raises(type(fault)):
            await waits(flight)

    stage.play(story)
    assert (stage.looked, stage.waiting) == (3, [])


def test_one_that_is_declared_no_more_leaves_no_place_behind(stage: Stage) -> None:
    async def story(flight: Flight) -> None:
        waiting = waits(flight)
        await stage.after(looks=1)
        stage.declared = capacity(ROOM.services["first"], pool_mb=1_000, live_veto=False)
        with pytest.raises(Unknown):
            await waiting

    stage.play(story)
    assert stage.waiting == []


@pytest.mark.parametrize("broken", [None, RuntimeError("the server says something unheard of")])
def test_who_goes_leaves_no_place_behind_whatever_failed_before(stage: Stage, broken: Exception | None) -> None:
    stage.looks = [None, CannotSee("ps gave no answer")]

    async def story(flight: Flight) -> None:
        client = Client()
        waiting = waits(flight, client=client)
        await stage.after(looks=2)
        assert len(stage.waiting) == 1
        client.leave(broken)
        await waiting

    stage.play(story)
    assert stage.waiting == []


@pytest.mark.parametrize("asking", [True, False], ids=["while it is asked", "while it is given back"])
def test_who_is_cancelled_while_a_look_is_under_way_leaves_no_place_behind(stage: Stage, asking: bool) -> None:
    under_way, go = threading.Event(), threading.Event()

    def fail() -> None:
        under_way.set()
        assert go.wait(20)
        raise CannotSee("ps gave no answer")

    async def story(flight: Flight) -> None:
        client = Client()
        waiting = waits(flight, client=client)
        await stage.after(looks=1)
        stage.table.on_look = fail
        looking = asyncio.create_task(flight.look())
        assert await asyncio.to_thread(under_way.wait, 20)
        if asking:
            while not flight._boarding:
                await asyncio.sleep(0.01)
        else:
            client.leave()
            while flight._thread._work_queue.empty():
                await asyncio.sleep(0.01)
        waiting.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(CannotSee):
            await looking
        while stage.waiting:
            await asyncio.sleep(0.01)

    stage.play(story)


def test_a_wait_counts_once_however_often_it_fails(stage: Stage, tmp_path: Path) -> None:
    stage.looks = [CannotSee("ps gave no answer")] * 3

    async def story(flight: Flight) -> None:
        waiting = waits(flight)
        await stage.after(looks=5)
        await asyncio.to_thread(stage.make_room)
        await waiting

    stage.play(story)
    verdicts = stage.gate.tally.counted(Journal(tmp_path / "journal.jsonl")).verdicts
    counted = {told: many for told, many in verdicts.items() if many}
    assert counted == {("refused", "unseen"): 1, ("admitted", ""): 1}


def test_a_failed_look_is_no_reason_for_another_one_to_be_refused(tmp_path: Path) -> None:
    """The place of one who was refused at his first look, and of one who goes on, stands in nobody's way afterwards."""
    stage = Stage(tmp_path / "state")
    stage.looks = [None, CannotSee("ps gave no answer")]

    async def story(flight: Flight) -> None:
        waiting = waits(flight, wait_s=0.3)
        await waiting
        await asyncio.to_thread(stage.make_room)
        assert word((await flight.ask(Ask("small", me())))[0]) == "Admitted"

    stage.play(story)
    assert word(decided(gate(stage.where), Ask("second", me()))[0]) == "Admitted"
