"""notify: tells people, by every channel that capacity.yaml declares. What happens goes on while it tells: its own
thread, a bounded queue, and channels that hang are waited for no longer than CHANNEL_WAIT_S.

A channel that fails is told on the others and in the journal, once until it works again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from admitd import channels
from admitd.channels import Channel
from admitd.core import grouping
from admitd.core.events import Event, Severity
from admitd.core.grouping import Message, Outbox
from admitd.core.terms import Sentinel
from admitd.journal import Record, forget

CHANNEL_WAIT_S: Final = 30.0
CLOSE_WAIT_S: Final = 3.0
QUEUE_MAX: Final = 500


class Notifier:
    """Everyone who is to be told. `settings` gives what is in force now; `record` remembers which channels failed."""

    def __init__(
        self,
        settings: Callable[[], Sentinel],
        record: Record = forget,
        *,
        make: Callable[[Sentinel], Sequence[Channel]] = channels.of,
        clock: Callable[[], float] = time.monotonic,
        complain: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self.left_out = 0
        self._settings = settings
        self._record = record
        self._make = make
        self._clock = clock
        self._complain = complain
        self._host = os.uname().nodename.partition(".")[0]
        self._queue: queue.Queue[Event | None] = queue.Queue(QUEUE_MAX)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._failing: set[str] = set()
        self._hanging: dict[str, threading.Thread] = {}

    def tell(self, event: Event) -> None:
        """Tell people of `event`, soon, where it is worth knowing. Never blocks, raises nothing."""
        if not grouping.is_told(event):
            return
        try:
            self._queue.put_nowait(event)
            self._start()
        except (queue.Full, RuntimeError):
            self.left_out += 1

    def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """Tell what still waits, a few seconds at most."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        if self._thread is not None:
            self._thread.join(wait_s)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="admit-notify", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        outbox = Outbox()
        while True:
            event, more = self._next(outbox)
            if event is not None:
                outbox = grouping.put(outbox, event)
            if more:
                outbox, message = grouping.take(outbox, self._clock(), self._host)
            else:
                outbox, message = grouping.take_all(outbox, self._clock(), self._host)
            if message is not None:
                try:
                    self._send(message)
                except Exception as problem:  # this thread must not end: nobody would be told anything any more
                    self._say(f"admit: a message could not be sent ({type(problem).__name__})")
            if not more:
                return

    def _next(self, outbox: Outbox) -> tuple[Event | None, bool]:
        """The next event, or None when something that waits is due; False where there will be no more."""
        due = grouping.due_at(outbox)
        try:
            event = self._queue.get(timeout=None if due is None else max(0.0, due - self._clock()))
        except queue.Empty:
            return None, not self._closing.is_set()
        # A queue that was full when it was closed has no None at its end.
        return event, event is not None and not (self._closing.is_set() and self._queue.empty())

    def _send(self, message: Message) -> None:
        declared = self._make(self._settings())
        results = self._try_all(declared, message)
        working = [channel for channel in declared if results[channel.label] is None]
        news = []
        for label, why in results.items():
            if why is None:
                self._failing.discard(label)
            elif label not in self._failing:
                self._failing.add(label)
                text = f"the channel {label} did not take a message: {why}"
                news.append(Event("channel_failed", text, Severity.WARNING))
        for event in news:
            self._record(event)
        if news and working:
            self._try_all(working, grouping.message(tuple(news), self._host))
        elif news:
            self._say("admit: nobody could be told: " + "; ".join(event.text for event in news))

    def _try_all(self, declared: Sequence[Channel], message: Message) -> dict[str, str | None]:
        """What became of `message` on each channel: None where it was taken, else why not."""
        results: dict[str, str | None] = {}
        attempts: dict[str, threading.Thread] = {}
        for channel in declared:
            before = self._hanging.get(channel.label)
            results[channel.label] = "it has not come back from the message before"
            if before is None or not before.is_alive():
                results[channel.label] = f"no answer in {CHANNEL_WAIT_S:g} s"
                thread = threading.Thread(target=_try, args=(channel, message, results), daemon=True)
                attempts[channel.label] = self._hanging[channel.label] = thread
                thread.start()
        give_up = time.monotonic() + CHANNEL_WAIT_S
        for thread in attempts.values():
            thread.join(max(0.0, give_up - time.monotonic()))
        return dict(results)  # who comes back later changes nothing any more

    def _say(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._complain(text)


def _try(channel: Channel, message: Message, results: dict[str, str | None]) -> None:
    try:
        results[channel.label] = channel.send(message)
    except Exception as problem:  # its text may hold the URL
        results[channel.label] = f"it failed ({type(problem).__name__})"
