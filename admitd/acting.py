"""acting: what the daemon does when it is told to load or unload; one act at a time for each service."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from admitd import actuator, loading, places, unloading
from admitd.core import headroom, wire
from admitd.core.terms import RAM
from admitd.core.units import free_to_mb, to_mb
from admitd.core.verdict import Admitted, Refused
from admitd.flight import Flight
from admitd.gate import Ask, Unknown

Said = tuple[int, dict[str, Any]]


class Acting:
    """Loads and unloads for others, through the same gate."""

    def __init__(self, flight: Flight, environ: Mapping[str, str]) -> None:
        self._flight = flight
        self._environ = environ
        self._under_way: set[str] = set()

    async def load(self, name: str, config: str) -> Said:
        """Status and body of the answer, once the load has come to its end. Raises Unknown, CannotSee, NotRecorded."""
        if name in self._under_way:
            return self._occupied(name)
        self._under_way.add(name)
        try:
            return await self._load(name, config)
        finally:
            self._under_way.discard(name)

    async def unload(self, name: str, *, kill: bool) -> Said:
        """Status and body of the answer, once it is gone. Raises Unknown, CannotSee, NotRecorded."""
        gate = self._flight.gate
        if name not in gate.capacity().services:
            raise Unknown(name, ())
        if name in self._under_way:
            return self._occupied(name)
        self._under_way.add(name)
        try:
            outcome = await asyncio.to_thread(unloading.unload, gate, name, lambda _: None, kill=kill)
        finally:
            self._under_way.discard(name)
        if isinstance(outcome, unloading.UnloadFailed):
            return 502, wire.problem(502, "It could not be asked to go", f"{outcome.why}.")
        if isinstance(outcome, unloading.UnloadTimedOut):
            detail = f"{outcome.why}; with kill it would get SIGKILL."
            return 504, wire.problem(504, "It did not go in time", detail, pids=list(outcome.pids))
        return 200, unloaded(name, outcome)

    async def _load(self, name: str, config: str) -> Said:
        gate = self._flight.gate
        holder = gate.table.identify(os.getpid())
        answer, _ = await self._flight.ask(Ask(name, holder, arrived_s=time.monotonic()))
        verdict = answer.verdict
        if isinstance(verdict, Refused):
            return 409, wire.verdict(verdict, config)
        if not isinstance(verdict, Admitted):
            return 200, loaded(name, "already_loaded", None)
        held = verdict.reservation
        try:
            service = gate.capacity().services[name]
            load = loading.Load(gate, service, Path(places.log_path(self._environ, name)), held.id if held else None)
            outcome = await asyncio.to_thread(load.follow, lambda _: None)
        except actuator.CannotStart as problem:
            return 502, wire.problem(502, "The load command failed", f"{problem}.")
        finally:
            if held is not None:
                await self._flight.give_back(held.id)
        if isinstance(outcome, loading.LoadFailed):
            return 502, wire.problem(502, "The load command failed", f"{outcome.why}.", log=list(outcome.tail))
        if isinstance(outcome, loading.LoadTimedOut):
            detail = f"{name} was not loaded within {service.load_timeout_s:g} s: {outcome.seen}."
            return 504, wire.problem(504, "It was not loaded in time", detail, log=list(outcome.tail))
        return 200, loaded(name, "loaded", outcome)

    def _occupied(self, name: str) -> Said:
        detail = f"{name} is being loaded or unloaded at this moment; ask again when that has ended."
        return 409, wire.problem(409, "Somebody is at it", detail)


def loaded(name: str, word: str, outcome: loading.Loaded | None) -> dict[str, Any]:
    """A load that came to its end, as JSON."""
    measured = headroom.total([outcome.measured]).get(RAM) if outcome else None
    return {
        "outcome": word,
        "service": name,
        "took_s": round(outcome.took_s, 3) if outcome else 0.0,
        "measured_mb": None if measured is None else to_mb(measured),
        "pids": list(outcome.pids) if outcome else [],
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
