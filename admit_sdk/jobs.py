"""jobs: one request on its way: waiting, answered or given up; and the queue that it waits in.

A job ends once, with an answer or an error; whoever ends it second changes nothing.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from admit_sdk.errors import Aborted, DeadlinePassed, QueueFull
from admit_sdk.requests import Piece, Request, Text

Answer = TypeVar("Answer")


class Job:
    """A request, who may still want it, and what came of it. Safe to use from any thread."""

    def __init__(self, model: str, request: Request[Any], priority: int, deadline_s: float | None) -> None:
        """`deadline_s`: of time.monotonic()."""
        self.model = model
        self.request = request
        self.priority = priority
        self.deadline_s = deadline_s
        self.pieces: SimpleQueue[Piece | None] = SimpleQueue()
        """What there is of the answer; None: nothing more comes."""
        self.answer: Any = None
        self.error: BaseException | None = None
        self.unwanted = False
        self._over = False
        self._lock = threading.Lock()
        self._bells: list[threading.Lock] = []
        """One held lock for each who waits. No Event: Ctrl-C inside its Python code would leave its lock held, and then
        the worker could never end the job."""

    @property
    def is_over(self) -> bool:
        return self._over

    def check(self) -> None:
        """Raise Aborted or DeadlinePassed where it is not wanted any more. Looked at after every token."""
        if self.unwanted:
            raise Aborted(f"the request to {self.model} was cancelled")
        if self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            raise DeadlinePassed(f"the request to {self.model} was not answered before its deadline")

    def end(self, answer: Any = None, error: BaseException | None = None) -> bool:
        """End it; whether this was the first end."""
        with self._lock:
            if self._over:
                return False
            self.answer, self.error = answer, error
            self._over = True
            for bell in self._bells:
                bell.release()
        self.pieces.put(None)
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Whether it is over within so many seconds."""
        bell = threading.Lock()
        bell.acquire()
        with self._lock:
            if self._over:
                return True
            self._bells.append(bell)
        if timeout_s is None:
            bell.acquire()
        else:
            bell.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX))
        return self._over


class Waiting:
    """The jobs of one model that no worker has taken: by priority, the higher first, then by arrival.

    Its owner's lock is held wherever it is used.
    """

    def __init__(self, model: str, limit: int) -> None:
        self._model = model
        self._limit = limit
        self._heap: list[tuple[int, int, Job]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, job: Job) -> None:
        """Raises QueueFull."""
        if len(self._heap) >= self._limit:
            self._drop_unwanted()
        if len(self._heap) >= self._limit:
            raise QueueFull(self._model, self._limit)
        self._arrivals += 1
        heapq.heappush(self._heap, (-job.priority, self._arrivals, job))

    def take(self) -> Job | None:
        """The next one that is still wanted; those before it that are not are ended."""
        while self._heap:
            job = heapq.heappop(self._heap)[2]
            if not _is_given_up(job):
                return job
        return None

    def remove(self, job: Job) -> bool:
        """Take one out; whether it was there."""
        kept = [entry for entry in self._heap if entry[2] is not job]
        found = len(kept) < len(self._heap)
        if found:
            self._heap = kept
            heapq.heapify(self._heap)
        return found

    def take_all(self) -> list[Job]:
        """Empty it."""
        found = [job for _, _, job in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap = []
        return found

    def _drop_unwanted(self) -> None:
        self._heap = [entry for entry in self._heap if not _is_given_up(entry[2])]
        heapq.heapify(self._heap)


def _is_given_up(job: Job) -> bool:
    """Whether nobody wants it any more; it is ended then."""
    if job.is_over:
        return True
    try:
        job.check()
    except (Aborted, DeadlinePassed) as why:
        job.end(error=why)
        return True
    return False


class Ticket(Generic[Answer]):
    """What the caller has of a request: its answer, when it is there, and the way to call it off."""

    def __init__(self, job: Job, forget: Waiting, lock: threading.RLock) -> None:
        self._job = job
        self._waiting = forget
        self._lock = lock

    @property
    def model(self) -> str:
        """Who answers: the model that was asked, or the smaller one that stands in for it."""
        return self._job.model

    @property
    def is_over(self) -> bool:
        return self._job.is_over

    def cancel(self) -> None:
        """Call it off: what waits ends at once, what is being answered after the token that it is at."""
        self._job.unwanted = True
        with self._lock:
            waited = self._waiting.remove(self._job)
        if waited:
            self._job.end(error=Aborted(f"the request to {self._job.model} was cancelled"))

    def result(self, timeout_s: float | None = None) -> Answer:
        """The whole answer. Raises Aborted, DeadlinePassed, ModelFailed, ValueError for what the model can't answer,
        and TimeoutError after `timeout_s`, which calls nothing off."""
        job = self._job
        self._await_end(timeout_s)
        if job.error is not None:
            raise _fresh(job.error)
        return cast(Answer, job.answer)

    def _await_end(self, timeout_s: float | None) -> None:
        give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._job.is_over:
            now_s = time.monotonic()
            ends = [each for each in (give_up_s, self._job.deadline_s) if each is not None]
            if self._job.wait(min(ends) - now_s if ends else None):
                return
            now_s = time.monotonic()
            if self._job.deadline_s is not None and now_s >= self._job.deadline_s:
                with self._lock:
                    self._waiting.remove(self._job)
                _is_given_up(self._job)
            elif give_up_s is not None and now_s >= give_up_s:
                raise TimeoutError(f"{self._job.model} has not answered within {timeout_s:g} s; it goes on")


class Stream(Iterator[Piece]):
    """The pieces of a text, as they come. Closing it, or forgetting it, calls the request off."""

    def __init__(self, ticket: Ticket[Text]) -> None:
        self._ticket = ticket
        self._job = ticket._job
        self._closed = False

    @property
    def model(self) -> str:
        return self._ticket.model

    @property
    def answer(self) -> Text:
        """The whole answer, once the pieces have ended; waits for that."""
        return self._ticket.result()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        """Raises what `Ticket.result` does, and StopIteration when the answer is whole, or after `close`."""
        if self._closed:
            raise StopIteration
        piece = self._next()
        if piece is not None:
            return piece
        self._closed = True
        if self._job.error is not None:
            raise _fresh(self._job.error)
        raise StopIteration

    def _next(self) -> Piece | None:
        deadline_s = self._job.deadline_s
        if deadline_s is None or self._job.is_over:
            return self._job.pieces.get()
        try:
            return self._job.pieces.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except Empty:
            self._ticket._await_end(None)
            return self._job.pieces.get()

    def cancel(self) -> None:
        """Call it off from another thread: whoever waits for the next piece gets Aborted."""
        self._ticket.cancel()

    def close(self) -> None:
        """Call it off; no piece comes any more."""
        self._closed = True
        if not self._job.is_over:
            self._ticket.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # No lock here: one that waits is dropped when its turn comes, one that runs looks after every token.
        self._job.unwanted = True


def _fresh(error: BaseException) -> BaseException:
    """An error that is raised more than once must not gather the frames of everyone who raised it, and keep alive
    what those hold."""
    return error.with_traceback(None)
