"""Who waits and who is answered, what is called off, and how a pool ends; with a backend whose pace the test sets."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from admit_sdk.errors import (
    Aborted,
    DeadlinePassed,
    ModelFailed,
    QueueFull,
    ResourceNotAvailableError,
)
from admit_sdk.requests import ImageEmbedding
from admitd.core.units import MIB
from tests.gates import until
from tests.sdk.counting import Counting, Make, ask, model

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
    first = pool.submit("a", ask(tokens=1))
    until(lambda: backend.open_requests == 1)
    said = "the request to a was not answered before its deadline"
    with pytest.raises(DeadlinePassed, match=said):
        pool.ask("a", ask("late"), timeout_s=0.05)
    backend.pace.release(1)
    assert first.result(30).tokens == 1
    with pytest.raises(DeadlinePassed, match=said):
        pool.ask("a", ask(), timeout_s=0.3)
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it comes inside a __del__
@pytest.mark.parametrize("how", ["streamed", "whole"])
def test_ctrl_c_at_any_point_leaves_no_lock_behind(make: Make, how: str) -> None:
    """At every entry and return of a function on the way, those of `threading` too: who comes after is answered."""
    pool = make(model("m"))

    def asked() -> None:
        if how == "whole":
            pool.ask("m", ask("again", 2))
        else:
            with pool.stream("m", ask("again", 2)) as stream:
                list(stream)

    asked()
    for point in itertools.count(1):
        left = point

        def press(_frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            left -= event in ("call", "return")
            if left == 0:
                raise KeyboardInterrupt
            return press

        sys.settrace(press)
        try:
            asked()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert pool.submit("m", ask("next", 1)).result(20).tokens == 1, point
        if left > 0:
            break
    assert point > 20
