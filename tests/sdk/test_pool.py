"""Who of a pool's models is loaded, and who goes, with a backend whose pace the test sets. Real models are in
test_pool_models.py."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from admit_sdk import holdings, machine, statefile
from admit_sdk.errors import (
    MemoryExhausted,
    ModelFailed,
    ResourceNotAvailableError,
)
from admit_sdk.holdings import Holdings
from admit_sdk.lifecycle import State
from admit_sdk.models import Model, Need
from admitd.core.governing import App
from admitd.core.terms import RAM, Level, Reading
from admitd.core.units import MIB
from admitd.processes.glimpse import identify
from tests.gates import Quiet, until
from tests.sdk.counting import Counting, Make, ask, model, states

# Loading.


def test_nothing_is_loaded_before_it_is_needed(make: Make, backend: Counting) -> None:
    pool = make(model("a"), model("b"))
    assert not pool.status()
    assert pool.ask("a", ask()).text == "0 1 "
    assert backend.loads == ["a"]
    assert pool.governor.holdings() == {"a": 100 * MIB}


def test_what_is_eager_is_loaded_at_once(make: Make, backend: Counting) -> None:
    pool = make(model("a", eager=True), model("b"))
    until(lambda: states(pool) == {"a": State.READY})
    assert backend.loads == ["a"]


@pytest.mark.parametrize("idle_by_then", [True, False])
def test_of_what_is_eager_as_much_as_fits_is_loaded_in_the_order_in_which_it_is_declared(
    make: Make, backend: Counting, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, idle_by_then: bool
) -> None:
    ready: list[str] = []

    def need(each: Model) -> Need:
        if each.name == "c" and idle_by_then:
            until(lambda: sorted(ready) == ["a", "b"])
        return Need(each.size_bytes or MIB, 0)

    monkeypatch.setattr(backend, "need", need)
    models = [model(name, eager=True) for name in "abc"]
    pool = make(*models, told=lambda name, state: ready.append(name) if state is State.READY else None)
    until(lambda: states(pool) == {"a": State.READY, "b": State.READY})
    assert (
        "c needs 100 MB of memory of the app's budget, and 50 MB are free: it is loaded when it is needed"
        in caplog.text
    )
    assert "unloaded all the same" not in caplog.text
    assert pool.ask("c", ask()).tokens == 2


@pytest.mark.parametrize("level", [Level.WARN, Level.CRITICAL])
def test_what_is_eager_is_not_loaded_on_a_machine_that_is_short_of_memory_already(
    make: Make, backend: Counting, caplog: pytest.LogCaptureFixture, level: Level
) -> None:
    class Short(Quiet):
        def reading(self) -> Reading:
            return Reading({RAM: MIB}, level, "the test says so")

    pool = make(model("a", eager=True), memory=Short())
    assert not pool.status()
    assert not backend.loads
    assert "a is not loaded ahead of need: the pressure is" in caplog.text
    assert pool.ask("a", ask()).tokens == 2


def test_a_measured_size_replaces_the_estimate(make: Make, backend: Counting) -> None:
    backend.held_when_loaded = 60 * MIB
    pool = make(model("a"))
    pool.ask("a", ask())
    assert pool.governor.holdings() == {"a": 60 * MIB}


def test_a_load_that_fails_gives_everything_back_and_tells_who_waits(make: Make, backend: Counting) -> None:
    def fail(_: Model) -> None:
        raise OSError("the disk is gone")

    backend.at_load = fail
    pool = make(model("a"))
    with pytest.raises(ModelFailed, match="a could not be loaded: OSError: the disk is gone"):
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0)
    backend.at_load = lambda _: None
    assert pool.ask("a", ask()).tokens == 2


@pytest.mark.parametrize(
    "fault", [SystemExit(1), MemoryError(), KeyboardInterrupt()], ids=lambda each: type(each).__name__
)
def test_a_thread_that_dies_as_it_loads_gives_everything_back(
    make: Make, backend: Counting, fault: BaseException
) -> None:
    def die(_: Model) -> None:
        raise fault

    backend.at_load = die
    pool = make(model("a"))
    with pytest.raises(ModelFailed, match="a could not be loaded"):
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0 and not pool.status())


def test_one_that_turns_out_larger_than_the_limit_is_unloaded_again(make: Make, backend: Counting) -> None:
    backend.held_when_loaded = 400 * MIB
    pool = make(model("a"))
    with pytest.raises(ResourceNotAvailableError, match="a needs"):
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0)


def test_one_that_breaks_as_it_answers_is_unloaded_and_loaded_anew(make: Make, backend: Counting) -> None:
    def die(token: int) -> None:
        raise MemoryError

    backend.at_token = die
    pool = make(model("a"))
    with pytest.raises(ModelFailed, match="a ran out of memory while it answered; it is unloaded"):
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0)
    backend.at_token = lambda _: None
    assert pool.ask("a", ask()).tokens == 2
    assert backend.loads == ["a", "a"]


def test_a_request_that_fails_takes_the_model_nowhere(make: Make, backend: Counting) -> None:
    pool = make(model("a"))
    with pytest.raises(ValueError, match="that can't be answered"):
        pool.ask("a", ask("nonsense"))

    def fail(token: int) -> None:
        raise ZeroDivisionError("oh")

    backend.at_token = fail
    with pytest.raises(ModelFailed, match="a failed at a request: ZeroDivisionError: oh"):
        pool.ask("a", ask())
    backend.at_token = lambda _: None
    assert pool.ask("a", ask()).tokens == 2
    assert backend.loads == ["a"]


def test_where_the_system_has_no_room_for_a_thread_everything_is_given_back(
    make: Make, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = make(model("a"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_room)
        with pytest.raises(ModelFailed, match="a could not be loaded: the system has no room for a thread"):
            pool.ask("a", ask())
    assert pool.governor.allocated_bytes == 0
    assert not pool.status()
    assert pool.ask("a", ask()).tokens == 2


def test_the_app_hears_what_happens_to_its_models(make: Make, backend: Counting) -> None:
    heard: list[tuple[str, State]] = []

    def hear(name: str, state: State) -> None:
        heard.append((name, state))
        raise ZeroDivisionError("the app's own fault")

    pool = make(model("a"), told=hear)
    pool.ask("a", ask())
    assert pool.evict("a") == 1
    assert heard == [("a", State.LOADING), ("a", State.READY), ("a", State.DEAD)]


# Workers.


@pytest.mark.parametrize(
    ("room_mb", "workers"), [(250, 2), (200, 2), (199, 1), (100, 1)], ids=["ample", "two", "nearly two", "one"]
)
def test_two_workers_if_both_fit_one_if_one_fits(make: Make, room_mb: int, workers: int) -> None:
    pool = make(model("a", workers=2), soft_mb=room_mb)
    assert pool.ensure_workers("a") == workers
    assert len(pool.status()) == workers
    assert pool.ensure_workers("a") == workers


def test_where_not_even_one_fits_the_numbers_are_told(make: Make) -> None:
    pool = make(model("a", workers=2), soft_mb=99)
    with pytest.raises(
        MemoryExhausted, match="a needs 100 MB of memory of the app's budget, and 99 MB are free"
    ) as told:
        pool.ensure_workers("a")
    assert (told.value.required, told.value.available) == (100 * MIB, 99 * MIB)
    assert "declare a smaller variant, or raise the budget" in told.value.suggestion


def test_a_second_worker_evicts_nobody(make: Make) -> None:
    pool = make(model("a", workers=2), model("b"))
    pool.ask("b", ask())
    assert pool.ensure_workers("a") == 1
    assert not pool.governor.evictions.pending
    assert states(pool).keys() == {"a", "b"}


def test_two_workers_answer_at_once_and_one_after_the_other_what_one_queue_holds(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a", workers=2))
    tickets = [pool.submit("a", ask(str(number), tokens=1)) for number in range(4)]
    until(lambda: backend.open_requests == 2)
    backend.pace.release(4)
    assert [ticket.result(30).text for ticket in tickets] == ["0 "] * 4
    assert sorted(backend.answers[:2]) == ["0", "1"]


# Room.


def test_the_least_recently_used_goes_first(make: Make, backend: Counting) -> None:
    pool = make(model("a"), model("b"), model("c"))
    for name in ("a", "b", "a", "c"):
        pool.ask(name, ask())
    assert states(pool).keys() == {"a", "c"}


def test_the_eager_one_goes_last_and_with_a_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(model("a", eager=True), model("b"), model("c"), model("d", 200))
    until(lambda: states(pool) == {"a": State.READY})
    for name in ("b", "c"):
        pool.ask(name, ask())
    assert states(pool).keys() == {"a", "c"}
    pool.ask("d", ask())
    assert states(pool).keys() == {"d"}
    assert "a was loaded eagerly and is unloaded all the same: d needs 200 MB" in caplog.text


def test_one_that_answers_is_never_unloaded(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"), model("b"), model("c"))
    a, b = (pool.submit(name, ask(tokens=1)) for name in "ab")
    until(lambda: backend.open_requests == 2)
    with pytest.raises(MemoryExhausted, match="ask again when a and b has answered") as told:
        pool.submit("c", ask())
    assert told.value.available == 50 * MIB
    assert pool.evict("a") == 0
    backend.pace.release(4)
    assert a.result(30).tokens == b.result(30).tokens == 1
    assert pool.ask("c", ask(tokens=2), wait_s=30).tokens == 2


def test_who_waits_for_room_gets_it_when_somebody_has_answered(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a", 200), model("b", 200))
    first = pool.submit("a", ask(tokens=1))
    until(lambda: backend.open_requests == 1)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(pool.ask("b", ask(tokens=1), wait_s=30).tokens))
    waiting.start()
    backend.pace.release(2)
    waiting.join(30)
    assert first.result(30).tokens == 1
    assert answers == [1]
    assert states(pool).keys() == {"b"}


def test_the_suggestion_is_a_declared_variant_that_fits(make: Make, backend: Counting) -> None:
    pool = make(model("large", 400, smaller="middle"), model("middle", 300, smaller="small"), model("small", 200))
    with pytest.raises(ResourceNotAvailableError) as told:
        pool.submit("large", ask())
    assert told.value.suggestion == "ask small instead, its smaller variant, which needs 200 MB"
    assert pool.ask("small", ask()).tokens == 2


def test_a_variant_that_is_missing_keeps_nothing_from_loading_and_is_not_suggested(
    make: Make, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []

    def need(each: Model) -> Need:
        looked_at.append(each.name)
        if each.name == "gone":
            raise ModelFailed("gone: there is no such folder")
        if each.name == "torn":
            raise OSError("the disk is gone")
        return Need(each.size_bytes or MIB, 0)

    monkeypatch.setattr(backend, "need", need)
    chain = (model("gone", smaller="torn"), model("torn", smaller="small"), model("small", 60))
    pool = make(model("large", 200, smaller="gone"), *chain)
    told = pytest.raises(MemoryExhausted, match="ask small instead, its smaller variant, which needs 60 MB")
    with pool.governor.try_allocate(150 * MIB), told:
        pool.submit("large", ask())
    assert looked_at == ["large", "gone", "torn", "small"]
    looked_at.clear()
    assert pool.ask("large", ask()).tokens == 2
    assert not looked_at


def test_on_a_battery_the_smaller_variant_answers(make: Make, backend: Counting) -> None:
    battery = [False]
    pool = make(model("large", 200, smaller="small"), model("small"), prefers_smaller=lambda: battery[0])
    ticket = pool.submit("large", ask())
    assert ticket.model == "large"
    assert ticket.result(30).tokens == 2
    battery[0] = True
    ticket = pool.submit("large", ask())
    assert ticket.model == "small"
    assert ticket.result(30).tokens == 2


def test_the_apps_own_heap_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(model("a"), model("b"), model("c", 250))
    pool.ask("a", ask())
    monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(280 * MIB))
    for name in "bc":
        with pytest.raises(MemoryExhausted, match="70 MB are free: the app's own heap takes what is missing"):
            pool.submit(name, ask())


def test_what_the_app_itself_allocates_counts_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(model("a"), model("b", 150), soft_mb=600, hard_mb=700)
    pool.ask("a", ask())
    with pool.governor.try_allocate(350 * MIB, holder="index"):
        monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(450 * MIB))
        assert pool._room.overrun() == -150 * MIB
        pool.ask("b", ask())
        assert states(pool).keys() == {"a", "b"}
        monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(601 * MIB))
        assert pool._room.overrun() == MIB


@pytest.mark.parametrize(("held_mb", "left_mb"), [(0, 600), (100, 600), (150, 550), (701, -1)])
def test_the_heap_counts_where_it_outgrew_what_is_reserved_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, held_mb: int, left_mb: int
) -> None:
    monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(held_mb * MIB))
    pool = make(soft_mb=600, hard_mb=800, reserved_mb=100)
    assert pool._room.overrun() == -left_mb * MIB


def test_beyond_the_hard_limit_nothing_is_loaded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(model("a"))
    monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(301 * MIB))
    with pytest.raises(ResourceNotAvailableError, match="nothing is loaded while the app holds 301 MB") as told:
        pool.submit("a", ask())
    assert told.value.resource == "memory below the hard limit"


@pytest.mark.parametrize(
    ("available_mb", "app", "suggestion"),
    [
        (90, ("Notes", 900 * MIB), "close Notes, which holds 900 MB"),
        (90, None, "close programs that hold memory, and ask again"),
        (90, ("Idle", 0), "close programs that hold memory, and ask again"),
        (150, ("Notes", 900 * MIB), "ask small instead, its smaller variant, which needs 100 MB"),
    ],
)
def test_a_machine_that_has_no_room_refuses_too_and_names_an_app_to_close(
    make: Make, monkeypatch: pytest.MonkeyPatch, available_mb: int, app: tuple[str, int] | None, suggestion: str
) -> None:
    pool = make(model("a", 200, smaller="small"), model("small"))
    monkeypatch.setattr(machine, "available", lambda: available_mb * MIB)
    monkeypatch.setattr(machine, "largest_app", lambda: app)
    with pytest.raises(MemoryExhausted) as told:
        pool.submit("a", ask())
    assert (told.value.resource, told.value.required, told.value.available, told.value.suggestion) == (
        "memory of this machine",
        200 * MIB,
        available_mb * MIB,
        suggestion,
    )
    monkeypatch.setattr(machine, "available", lambda: 200 * MIB)
    assert pool.ask("a", ask()).tokens == 2


def test_the_app_that_holds_the_most_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file in which apps tell of each other; this process is not one to close."""
    path = tmp_path / "state.json"
    monkeypatch.setattr(statefile, "default_path", lambda _: path)
    assert machine.largest_app() is None
    parent, own = (identify(pid) for pid in (os.getppid(), os.getpid()))
    assert parent is not None and own is not None
    for process, name, megabytes in ((own, "me", 900), (parent, "notes", 300), (parent, "mail", 500)):
        statefile.write(path, App(process, name, {RAM: 1000 * MIB}, {RAM: megabytes * MIB}))
    assert machine.largest_app() == ("mail", 500 * MIB)


def test_what_a_daemon_says_is_passed_on(make: Make, backend: Counting) -> None:
    """The governor knows it, by admit_sdk/citizen.py."""
    pool = make(model("a"))
    pool.governor.ask_before_growing(50 * MIB, lambda wanted: "Notes holds 900 MB; run: admit unload notes")
    with pytest.raises(MemoryExhausted, match="Notes holds 900 MB; run: admit unload notes") as told:
        pool.submit("a", ask())
    assert (told.value.required, told.value.available) == (100 * MIB, 50 * MIB)
    assert not backend.loads


@pytest.mark.parametrize(("ceiling_mb", "available_mb"), [(150, 150), (100, 100), (40, 40), (0, 0)])
def test_what_is_free_is_what_a_daemon_leaves_with_what_could_go(
    make: Make, backend: Counting, ceiling_mb: int, available_mb: int
) -> None:
    pool = make(model("a"), model("b", 200, smaller="c"), model("c", 120))
    pool.ask("a", ask())
    pool.governor.ask_before_growing(ceiling_mb * MIB, lambda wanted: "run: admit unload notes")
    fits = "ask c instead, its smaller variant, which needs 120 MB" if ceiling_mb == 150 else "run: admit unload notes"
    with pytest.raises(MemoryExhausted, match=fits) as told:
        pool.submit("b", ask())
    assert told.value.available == available_mb * MIB
    assert states(pool).keys() == {"a"}
