"""flight: one look for all who ask at once. Every answer comes from a look that began after its request arrived.

Requests that arrive while a look is under way wait for the next one and share it, so that sixteen clients cost little
more than one. The looking is done in one thread of its own: the event loop never blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from admitd.asks import may_wait
from admitd.core.verdict import Admitted, Verdict
from admitd.gate import Answer, Ask, Gate, Scene, Unknown

_Told = tuple[Answer | Unknown | None, Scene | None]
_Landed = _Told | Exception


@dataclass(slots=True)
class _Passenger:
    ask: Ask | None  # None: only the scene is wanted
    told: asyncio.Future[_Told]


class Flight:
    """The gate, for many at once."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="admit-gate")
        self._boarding: list[_Passenger] = []
        self._flying: asyncio.Task[None] | None = None

    async def look(self) -> Scene:
        """A scene whose look begins now or later. Raises CannotSee or NotRecorded."""
        _, scene = await self._board(None)
        assert scene is not None
        return scene

    async def ask(self, ask: Ask) -> tuple[Answer, Scene | None]:
        """The verdict on `ask`, and the scene it was decided on. Raises Unknown."""
        answer, scene = await self._board(ask)
        if isinstance(answer, Unknown):
            raise answer
        assert answer is not None
        return answer, scene

    async def give_back(self, record_id: str) -> bool:
        """End a reservation, or a place in the queue; whether there was one."""
        given = asyncio.get_running_loop().run_in_executor(self._thread, self.gate.give_back, record_id)
        return await asyncio.shield(given)  # who is cancelled while a look is under way gives it back all the same

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _board(self, ask: Ask | None) -> _Told:
        told: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()
        self._boarding.append(_Passenger(ask, told))
        if self._flying is None or self._flying.done():
            self._flying = asyncio.create_task(self._fly())
        return await told

    async def _fly(self) -> None:
        loop = asyncio.get_running_loop()
        while self._boarding:
            # Who has gone meanwhile is not decided for.
            aboard, self._boarding = [each for each in self._boarding if not each.told.done()], []
            if not aboard:
                continue
            try:
                landed = await loop.run_in_executor(self._thread, self._look_once, aboard)
            except Exception as problem:  # told to each who waits; nobody is left hanging
                for passenger in aboard:
                    if not passenger.told.done():
                        passenger.told.set_exception(problem)
                continue
            for passenger, result in zip(aboard, landed, strict=True):
                if passenger.told.done():
                    continue
                if isinstance(result, Exception):
                    passenger.told.set_exception(result)
                else:
                    passenger.told.set_result(result)
            gone = [result for passenger, result in zip(aboard, landed, strict=True) if passenger.told.cancelled()]
            for record_id in {record_id for result in gone for record_id in _his(result)}:
                with contextlib.suppress(RuntimeError):  # the thread has ended with the daemon
                    await self.give_back(record_id)

    def _look_once(self, aboard: list[_Passenger]) -> list[_Landed]:
        """One look for all. Where anyone asks for admission, the others see what was seen for that."""
        asks = [passenger.ask for passenger in aboard if passenger.ask is not None]
        if not asks:
            scene: Scene | None = self.gate.look()
            return [(None, scene) for _ in aboard]
        began = time.perf_counter()
        answers, scene = self.gate.decide(asks)
        self.gate.tally.decided(time.perf_counter() - began, _told(asks, answers))
        told = iter(answers)
        failure: Exception | None = None
        if scene is None and len(asks) < len(aboard):
            # The decision could not be made; those who only look may still see, or get the reason as it is.
            try:
                scene = self.gate.look()
            except Exception as problem:
                failure = problem
        return [
            (next(told), scene) if passenger.ask is not None else (failure or (None, scene)) for passenger in aboard
        ]


def _told(asks: Sequence[Ask], answers: Sequence[Answer | Unknown]) -> list[Verdict]:
    """The verdicts that count: no dry run's; of one who waits in the queue, his first refusal and his admission."""
    return [
        answer.verdict
        for ask, answer in zip(asks, answers, strict=True)
        if isinstance(answer, Answer) and not ask.dry_run and not (ask.again and may_wait(answer.verdict))
    ]


def _his(result: _Landed) -> list[str]:
    """What was written for one who is not there to be told, and could not be known to anyone else.

    A holder's reservation stays: he may be asking by another door already, and be told of the same one.
    """
    answer = None if isinstance(result, Exception) else result[0]
    if not isinstance(answer, Answer):
        return []
    held = answer.verdict.reservation if isinstance(answer.verdict, Admitted) else None
    mine = [held.id] if held is not None and held.holder is None else []
    return mine if answer.waiter is None else [*mine, answer.waiter]
