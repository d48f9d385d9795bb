"""The pool itself: who is loaded, who waits, who goes; with a backend whose pace the test sets. Real models are in
test_pool_models.py."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from admit_sdk import pool as pool_module
from admit_sdk.errors import (
    Aborted,
    DeadlinePassed,
    MemoryExhausted,
    ModelFailed,
    QueueFull,
    ResourceNotAvailableError,
)
from admit_sdk.governor import MemoryGovernor
from admit_sdk.holdings import Holdings
from admit_sdk.lifecycle import State
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import ImageEmbedding, Message, TextToText
from admitd.core.units import MIB
from tests.gates import until
from tests.sdk import counting
from tests.sdk.counting import Counting, model

Make = Callable[..., ModelPool]


@pytest.fixture
def backend() -> Counting:
    made = Counting()
    counting.use(made)
    return made


@pytest.fixture
def make(backend: Counting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Pools with a soft budget of 250 MB and a hard one of 300; the heap of the tests is not counted as an app's."""
    monkeypatch.setattr(pool_module, "measure", lambda files=(): Holdings(0))
    made: list[ModelPool] = []

    def make(*models: Model, soft_mb: int = 250, hard_mb: int = 300, **options: Any) -> ModelPool:
        governor = MemoryGovernor(hard_mb * MIB, soft=soft_mb * MIB, watch=False)
        made.append(ModelPool(governor, models, **options))
        return made[-1]

    yield make
    for each in made:
        assert each.close(30)
        assert each.governor.allocated_bytes == 0
        assert each.governor.close()


def ask(said: str = "hello", tokens: int = 2) -> TextToText:
    return TextToText((Message("user", said),), max_tokens=tokens)


def states(pool: ModelPool) -> dict[str, State]:
    return {each.model: each.state for each in pool.status()}


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


def test_on_a_battery_the_smaller_variant_answers(make: Make, backend: Counting) -> None:
    battery = [False]
    pool = make(model("large", 200, smaller="small"), model("small"), prefers_smaller=lambda: battery[0])
    assert pool.submit("large", ask()).model == "large"
    battery[0] = True
    ticket = pool.submit("large", ask())
    assert ticket.model == "small"
    assert ticket.result(30).tokens == 2


def test_the_apps_own_heap_counts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(model("a"), model("b"))
    pool.ask("a", ask())
    monkeypatch.setattr(pool_module, "measure", lambda files=(): Holdings(280 * MIB))
    with pytest.raises(MemoryExhausted, match="the app's own heap takes what is missing"):
        pool.submit("b", ask())


def test_beyond_the_hard_limit_nothing_is_loaded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(model("a"))
    monkeypatch.setattr(pool_module, "measure", lambda files=(): Holdings(301 * MIB))
    with pytest.raises(ResourceNotAvailableError, match="nothing is loaded while the app holds 301 MB") as told:
        pool.submit("a", ask())
    assert told.value.resource == "memory below the hard limit"


def test_whoever_decides_for_the_machine_is_asked_before_a_load(make: Make, backend: Counting) -> None:
    def no(name: str, size: int) -> None:
        raise ResourceNotAvailableError("ram", size, 0, "close Notes, which holds 900 MB", what=name)

    pool = make(model("a"), asked=no)
    with pytest.raises(ResourceNotAvailableError, match="close Notes, which holds 900 MB"):
        pool.submit("a", ask())
    assert not backend.loads


# Requests.


def test_requests_to_one_model_are_answered_in_turn_and_the_urgent_one_first(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"))
    tickets = [pool.submit("a", ask("first", 1))]
    until(lambda: backend.open_requests == 1)
    tickets += [pool.submit("a", ask(said, 1), priority=priority) for said, priority in (("x", 0), ("y", 0), ("z", 5))]
    backend.pace.release(4)
    assert all(ticket.result(30) for ticket in tickets)
    assert backend.answers == ["first", "z", "x", "y"]


def test_different_models_answer_at_the_same_time(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"), model("b"))
    tickets = [pool.submit(name, ask(tokens=1)) for name in "ab"]
    until(lambda: backend.open_requests == 2)
    backend.pace.release(2)
    assert all(ticket.result(30) for ticket in tickets)


def test_a_full_queue_says_so(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a", queue_limit=2))
    tickets = [pool.submit("a", ask(tokens=1))]
    until(lambda: backend.open_requests == 1)
    tickets += [pool.submit("a", ask(tokens=1)) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests wait for a already"):
        pool.submit("a", ask())
    tickets[1].cancel()
    tickets.append(pool.submit("a", ask(tokens=1)))
    backend.pace.release(3)
    assert [ticket.result(30).tokens for ticket in tickets if ticket is not tickets[1]] == [1, 1, 1]


def test_a_deadline_ends_what_waits_and_what_is_being_answered(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"))
    running = pool.submit("a", ask(), timeout_s=0.3)
    waiting = pool.submit("a", ask("late"), timeout_s=0.3)
    for ticket in (waiting, running):
        with pytest.raises(DeadlinePassed, match="the request to a was not answered before its deadline"):
            ticket.result()
    until(lambda: backend.open_requests == 0)
    assert "late" not in backend.answers
    backend.pace.release(2)
    assert pool.ask("a", ask()).tokens == 2


def test_a_wait_for_the_answer_that_is_too_short_calls_nothing_off(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"))
    ticket = pool.submit("a", ask())
    with pytest.raises(TimeoutError, match=r"a has not answered within 0.01 s; it goes on"):
        ticket.result(0.01)
    backend.pace.release(2)
    assert ticket.result(30).tokens == 2


def test_cancelling_stops_after_the_next_token_and_the_caller_gets_aborted(make: Make, backend: Counting) -> None:
    pool = make(model("a"))
    seen: list[int] = []

    def cancel(token: int) -> None:
        seen.append(token)
        if token == 3:
            ticket.cancel()

    began = threading.Event()
    backend.at_load = lambda _: began.wait(30) and None
    backend.at_token = cancel
    ticket = pool.submit("a", ask(tokens=1000))
    began.set()
    with pytest.raises(Aborted, match="the request to a was cancelled"):
        ticket.result(30)
    assert seen == [0, 1, 2, 3]
    assert backend.open_requests == 0


def test_what_waits_is_aborted_at_once(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"))
    first = pool.submit("a", ask(tokens=1))
    until(lambda: backend.open_requests == 1)
    second = pool.submit("a", ask("second"))
    second.cancel()
    with pytest.raises(Aborted):
        second.result(30)
    backend.pace.release(1)
    assert first.result(30).tokens == 1
    assert backend.answers == ["hello"]


# Streams.


def test_a_stream_gives_the_pieces_and_then_the_answer(make: Make) -> None:
    pool = make(model("a"))
    with pool.stream("a", ask(tokens=3)) as stream:
        assert [piece.text for piece in stream] == ["0 ", "1 ", "2 "]
        assert stream.answer.text == "0 1 2 "
        assert next(stream, None) is None


@pytest.mark.parametrize("how", ["closed", "left", "forgotten"])
def test_a_stream_that_is_over_calls_its_request_off(make: Make, backend: Counting, how: str) -> None:
    backend.pace = threading.Semaphore(1)
    pool = make(model("a"))
    stream = pool.stream("a", ask(tokens=1000))
    assert next(stream).text == "0 "
    if how == "closed":
        stream.close()
        assert next(stream, None) is None
    elif how == "left":
        with stream:
            pass
    else:
        del stream
        gc.collect()
    until(lambda: backend.open_requests == 0)


def test_who_waits_for_a_piece_is_told_when_it_is_cancelled_elsewhere(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"))
    stream = pool.stream("a", ask())
    threading.Timer(0.05, stream.cancel).start()
    with pytest.raises(Aborted):
        next(stream)


def test_a_stream_ends_at_its_deadline(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(1)
    pool = make(model("a"))
    stream = pool.stream("a", ask(), timeout_s=0.3)
    with pytest.raises(DeadlinePassed):
        list(stream)


# Wrong use, and the end.


@pytest.mark.parametrize(
    ("name", "request_", "said"),
    [
        ("nobody", ask(), "no model is called 'nobody'; there are a"),
        ("a", ImageEmbedding((b"x",)), "a is for text-to-text, and was asked for image-embedding"),
    ],
)
def test_what_makes_no_sense_is_said(make: Make, name: str, request_: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(model("a")).submit(name, request_)


def test_closing_ends_everything(make: Make, backend: Counting) -> None:
    backend.pace = threading.Semaphore(0)
    pool = make(model("a"), model("b"))
    running, waiting = pool.submit("a", ask()), pool.submit("a", ask())
    pool.submit("b", ask()).cancel()
    until(lambda: backend.open_requests == 1)
    assert pool.close(30)
    for ticket in (running, waiting):
        with pytest.raises(Aborted):
            ticket.result(30)
    assert pool.governor.allocated_bytes == 0
    with pytest.raises(ModelFailed, match="the pool is closed; open a new one"):
        pool.submit("a", ask())


def test_many_threads_and_too_little_room_leave_nothing_behind(make: Make, backend: Counting) -> None:
    pool = make(*(model(name) for name in "abcd"))
    outcomes: list[str] = []

    def work(number: int) -> None:
        for turn in range(6):
            name = "abcd"[(number + turn) % 4]
            try:
                stream = pool.stream(name, ask(tokens=20), wait_s=20)
                pieces = 0
                for _ in stream:
                    pieces += 1
                    if turn % 3 == 2:
                        break
                stream.close()
                outcomes.append(f"{pieces}")
            except ResourceNotAvailableError:
                outcomes.append("refused")
            assert pool.governor.allocated_bytes <= 250 * MIB

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(outcomes) == 48, f"after {time.monotonic() - began:.0f} s"
    assert "20" in outcomes
    until(lambda: backend.open_requests == 0)
