"""acting: what the daemon does when it is told to load or unload; one act at a time for each service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from admitd import actuator, loading, places, unloading
from admitd.core import headroom, wire
from admitd.core.terms import NOTHING, RAM, Service, State
from admitd.core.units import free_to_mb, to_mb
from admitd.core.verdict import Admitted, Refused
from admitd.flight import Flight
from admitd.gate import Ask, Unknown
from admitd.problem import closest

Said = tuple[int, dict[str, Any]]
_Result = TypeVar("_Result")


class Occupied(Exception):
    """The service is being loaded or unloaded at this moment, by this same daemon."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self.service = service


@dataclass(frozen=True, slots=True)
class _There:
    """It was loaded already, in `state`, and has yet to come up."""

    service: Service
    state: State


class Acting:
    """Loads and unloads for others, through the same gate."""

    def __init__(self, flight: Flight, environ: Mapping[str, str]) -> None:
        self._flight = flight
        self._environ = environ
        self._under_way: set[str] = set()
        self._awaited: dict[str, asyncio.Future[loading.Outcome]] = {}

    async def load(self, name: str, config: str) -> Said:
        """Status and body of the answer, once the load has come to its end; of what is loaded already, once it is up
        and answers: somebody else may be loading it still.

        Raises Occupied, Unknown, CannotSee, NotRecorded.
        """
        with self._alone(name):
            said = await self._load(name, config)
        return await self._answered(said) if isinstance(said, _There) else said

    async def _answered(self, there: _There) -> Said:
        """Once it is up. All who ask meanwhile wait for the same answer: each would look four times a second."""
        service, state = there.service, there.state
        name = service.name
        if name not in self._awaited:
            look = _in_a_thread(lambda: loading.await_answer(self._flight.gate, service, state, lambda _: None))
            self._awaited[name] = asyncio.ensure_future(look)
            self._awaited[name].add_done_callback(lambda _: self._awaited.pop(name, None))
        outcome = await asyncio.shield(self._awaited[name])
        if isinstance(outcome, loading.LoadTimedOut):
            detail = (
                f"{name} is loaded already, but did not answer within {service.load_timeout_s:g} s: {outcome.seen}."
            )
            body = wire.problem(504, "It was not loaded in time", detail, log=[], outcome="already_loaded")
            return 504, body
        return _ended(service, "already_loaded", outcome)

    async def unload(self, name: str, config: str, *, kill: bool) -> Said:
        """Status and body of the answer, once it is gone. `config`: the file that the next command must name.

        Raises Occupied, Unknown, CannotSee, NotRecorded.
        """
        gate = self._flight.gate
        with self._alone(name):
            declared = gate.capacity().services
            if name not in declared:
                near = closest(name, declared)
                raise Unknown(name, (near,) if near else ())
            outcome = await _in_a_thread(lambda: unloading.unload(gate, name, lambda _: None, kill=kill))
        if isinstance(outcome, unloading.UnloadFailed):
            return 502, wire.problem(502, "It could not be asked to go", f"{outcome.why}.")
        if isinstance(outcome, unloading.UnloadTimedOut):
            detail = f"{outcome.why}{_what_next(name, outcome, config)}."
            return 504, wire.problem(504, "It did not go in time", detail, pids=list(outcome.pids))
        return 200, unloaded(name, outcome)

    async def _load(self, name: str, config: str) -> Said | _There:
        # The daemon is the holder until it has started something; what it started takes a lease over from it.
        holder = await _in_a_thread(lambda: self._flight.gate.table.identify(os.getpid()))
        answer, scene = await self._flight.ask(Ask(name, holder))
        verdict = answer.verdict
        if isinstance(verdict, Refused):
            return 409, wire.verdict(verdict, config)
        assert scene is not None
        service = scene.capacity.services[name]
        if not isinstance(verdict, Admitted):
            may_come = verdict.has_probe or verdict.state is State.HALF_LOADED
            if may_come and not verdict.mention_only and verdict.state is not State.SUSPENDED:
                return _There(service, verdict.state)
            return _ended(service, "already_loaded", loading.Loaded(0.0, NOTHING, ()))
        held = verdict.reservation.id if verdict.reservation is not None else None
        try:
            outcome = await _in_a_thread(lambda: self._follow(service, held))
        except asyncio.CancelledError:
            # The daemon ends. What it started goes on and has the lease; given back, its room would be given twice.
            held = None
            raise
        except actuator.CannotStart as problem:
            return 502, wire.problem(502, "It could not be loaded", f"{problem}.", log=[])
        finally:
            if held is not None:
                await self._flight.give_back(held)
        return _ended(service, "loaded", outcome)

    def _follow(self, service: Service, held: str | None) -> loading.Outcome:
        log = Path(places.log_path(self._environ, service.name))
        load = loading.Load(self._flight.gate, service, log, held)
        try:
            return load.follow(lambda _: None)
        finally:
            # It is this process's child for as long as it lives; unless somebody waits for it, it ends as a zombie.
            threading.Thread(target=load.process.wait, name="admit-reap", daemon=True).start()

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        if name in self._under_way:
            raise Occupied(name)
        self._under_way.add(name)
        try:
            yield
        finally:
            self._under_way.discard(name)


def _ended(service: Service, word: str, outcome: loading.Outcome) -> Said:
    if isinstance(outcome, loading.LoadFailed):
        return 502, wire.problem(502, "It could not be loaded", f"{outcome.why}.", log=list(outcome.tail))
    if isinstance(outcome, loading.LoadTimedOut):
        detail = f"{service.name} was not loaded within {service.load_timeout_s:g} s: {outcome.seen}."
        return 504, wire.problem(504, "It was not loaded in time", detail, log=list(outcome.tail))
    return 200, loaded(service.name, word, outcome)


def _what_next(name: str, outcome: unloading.UnloadTimedOut, config: str) -> str:
    """What ends it, after what it did not go for."""
    if outcome.keeper is not None:
        if outcome.keeper.stop:
            return f"; this stops it for good: {outcome.keeper.stop}"
        return f"; see what it is: {wire.pasted(config, 'explain', name)}"
    return f"; end it for certain: {wire.pasted(config, 'unload', name, '--kill')}" if outcome.pids else ""


async def _in_a_thread(act: Callable[[], _Result]) -> _Result:
    """An act takes minutes: each has a thread of its own, so that no load keeps an unload waiting, and the end of the
    daemon waits for none of them."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[_Result] = loop.create_future()

    def tell(result: _Result | None, problem: BaseException | None) -> None:
        if told.done():
            return
        if problem is not None:
            told.set_exception(problem)
        else:
            told.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = act()
        except Exception as problem:
            failure = problem
        with contextlib.suppress(RuntimeError):  # the loop has ended with the daemon
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="admit-act", daemon=True).start()
    return await told


def loaded(name: str, word: str, outcome: loading.Loaded) -> dict[str, Any]:
    """A load that came to its end, as JSON."""
    measured = headroom.total([outcome.measured]).get(RAM)
    return {
        "outcome": word,
        "service": name,
        "took_s": round(outcome.took_s, 3),
        "measured_mb": None if measured is None else to_mb(measured),
        "pids": list(outcome.pids),
    }


def unloaded(name: str, outcome: unloading.Unloaded) -> dict[str, Any]:
    """An unload that came to its end, as JSON."""
    return {
        "outcome": "unloaded" if outcome.was_loaded else "not_loaded",
        "service": name,
        "took_s": round(outcome.took_s, 3),
        "back_mb": None if outcome.back is None else free_to_mb(outcome.back.get(RAM, 0)),
        "note": outcome.note,
    }
