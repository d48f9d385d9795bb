"""waiting: a request that waits for its turn: asked again until it is admitted, its time is up, or its client has gone.

What could not be seen or written down at one look may be at the next: that ends no wait, whichever look it was. The
place in the queue is given back by every way out.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from fastapi import Request

from admitd.asks import Answer, Ask, may_wait
from admitd.core.verdict import Admitted, Refused
from admitd.flight import Flight

ASK_AGAIN_S: Final = 0.5
"""How often it is looked whether its turn has come."""


async def ask_until(flight: Flight, ask: Ask, request: Request) -> Answer:
    """Ask, and where it is refused and may wait, ask again; the last answer. Raises Unknown."""
    answer, _ = await flight.ask(ask)
    if ask.wait_s <= 0 or not may_wait(answer.verdict):
        return answer
    loop = asyncio.get_running_loop()
    gone = asyncio.ensure_future(_disconnected(request))
    deadline = loop.time() + ask.wait_s
    place = answer.waiter
    try:
        while may_wait(answer.verdict) and (left := deadline - loop.time()) > 0:
            await asyncio.wait((gone,), timeout=min(ASK_AGAIN_S, left))
            if gone.done():
                break
            before = answer
            answer, _ = await flight.ask(replace(ask, waiter=place, again=True))
            answer = _where_it_was(answer, before)
            # Whoever is admitted has lost his place by that, and need not wait until it could be given back.
            place = (answer.waiter or place) if may_wait(answer.verdict) else None
        if gone.done():
            await _take_back(flight, answer)
    finally:
        gone.cancel()
        if place is not None:
            await flight.give_back(place)
        await asyncio.gather(gone, return_exceptions=True)
    return answer


def _where_it_was(answer: Answer, before: Answer) -> Answer:
    """Where its position could not be told just now, it is the one that was told last."""
    now, then = answer.verdict, before.verdict
    if isinstance(now, Refused) and isinstance(then, Refused) and may_wait(now) and now.queue_position is None:
        return replace(answer, verdict=replace(now, queue_position=then.queue_position))
    return answer


async def _take_back(flight: Flight, answer: Answer) -> None:
    """The client went while its turn came: what was promised to nobody but him is free again."""
    held = answer.verdict.reservation if isinstance(answer.verdict, Admitted) else None
    if held is not None and held.holder is None:
        await flight.give_back(held.id)


async def _disconnected(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
