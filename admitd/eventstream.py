"""eventstream: the journal as a live stream of server-sent events. The files are the queue: a reader that is slow costs
no memory and holds nobody up, and one that comes back goes on after the last id that it saw.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from admitd.core.events import Entry, Event, entry_json
from admitd.journal import Journal

KIND: Final = "text/event-stream"
STREAMS_MAX: Final = 32
ALIVE_EVERY_S: Final = 15.0
LOOK_EVERY_S: Final = 1.0
"""What this process writes is sent at once; what others write is looked for this often, at the cost of one stat."""
RETRY_MS: Final = 2_000


class TooMany(Exception):
    """As many streams are open as may be."""


class Streams:
    """Every open stream of one application. They end when `stop` is called: a daemon that ends waits for none."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._open: set[asyncio.Event] = set()
        self._stopping = False

    def stop(self) -> None:
        """End every stream; called on the event loop."""
        self._stopping = True
        for woken in self._open:
            woken.set()

    def check_room(self) -> None:
        """Raises TooMany where no further stream may be opened."""
        if len(self._open) >= STREAMS_MAX or self._stopping:
            raise TooMany

    async def stream(
        self, after: int | None, since: float | None, service: str | None, limit: int
    ) -> AsyncIterator[bytes]:
        """What is new: after the id that was seen last, else the last `limit` since `since`, else from now on."""
        with self._woken() as woken, suppress(OSError):  # a journal that cannot be read ends the stream
            tail = await asyncio.to_thread(self.journal.follow, after)
            yield f"retry: {RETRY_MS}\n\n".encode()  # whoever has read this misses nothing from now on
            if after is None and since is not None:
                for entry in await asyncio.to_thread(
                    lambda: self.journal.read(since=since, service=service, limit=limit)
                ):
                    if entry.id <= tail.last:  # what was written since then is the tail's to tell
                        yield _frame(entry)
            sent_at = time.monotonic()
            while not self._stopping:
                woken.clear()
                for entry in await asyncio.to_thread(tail.more):
                    if service in (None, entry.event.service):
                        yield _frame(entry)
                        sent_at = time.monotonic()
                if time.monotonic() - sent_at >= ALIVE_EVERY_S:
                    yield b": alive\n\n"
                    sent_at = time.monotonic()
                await _either(woken, LOOK_EVERY_S)

    @contextmanager
    def _woken(self) -> Any:
        """An event that is set whenever this process has written to the journal."""
        woken, loop = asyncio.Event(), asyncio.get_running_loop()

        def heard(event: Event) -> None:
            loop.call_soon_threadsafe(woken.set)

        unlisten = self.journal.listen(heard)
        self._open.add(woken)
        try:
            yield woken
        finally:
            unlisten()
            self._open.discard(woken)


def resumed(last_event_id: str | None) -> int | None:
    """The id in a Last-Event-ID header; None where there is none, or it is none of ours."""
    text = (last_event_id or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def is_wanted(accept: str | None) -> bool:
    """Whether an Accept header asks for a stream."""
    for part in (accept or "").lower().split(","):
        kind, *options = (each.strip() for each in part.split(";"))
        if kind == KIND:
            return not any(each.replace(" ", "") in ("q=0", "q=0.0") for each in options)
    return False


def _frame(entry: Entry) -> bytes:
    data = json.dumps(entry_json(entry))
    return f"id: {entry.id}\nevent: {entry.event.kind}\ndata: {data}\n\n".encode()


async def _either(woken: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return
