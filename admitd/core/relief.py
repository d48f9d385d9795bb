"""relief: what is done under memory pressure: tell, and, where that was asked for, unload one idle service at a time.

Levels rise at once and fall only after CALM_S without a worse reading, so that one that sways is told of once.
Critical pressure must last through two looks, SUSTAINED_S apart at least, before it is acted on.

Who may go: loaded, idle (unknown counts as busy), evictable, not pinned, not being loaded or unloaded, with a way to
unload it, and holding at least WORTH. Who goes first, in order:
1. who is not eager before who is;
2. the lower priority;
3. who was active longest ago, and who never was before all others;
4. the larger one; then by name.
After each one the next look must still be critical, SETTLE_S later, before another goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from admitd.core.acts import Act, Evict, Tell, ago, mb
from admitd.core.events import Event, Number, Severity
from admitd.core.ledger import Account
from admitd.core.terms import RAM, Level, OnPressure, Reading, Sentinel
from admitd.core.units import MIB, to_mb

CALM_S: Final = 30.0
SUSTAINED_S: Final = 10.0
"""systemd-oomd waits 30 s (DefaultMemoryPressureDurationSec); macOS kills the largest holder within seconds."""
SETTLE_S: Final = 15.0
"""nohang waits 15 s after an act, because PSI's averages look 10 s back."""
WORTH: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Standing:
    """One service as a look saw it. `idle`: known to be; `last_active_s`: when it last worked, or came, by the clock of
    `now`; None for never. `handled`: somebody loads or unloads it."""

    account: Account
    idle: bool
    last_active_s: float | None = None
    handled: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """`level` is the one that is believed and was told; `critical_since_s` when a row of critical readings began."""

    level: Level = Level.NORMAL
    worse_at_s: float = 0.0
    critical_since_s: float | None = None
    evicted_at_s: float | None = None
    advised: bool = False


def step(
    memory: Memory, now: float, reading: Reading, standing: Sequence[Standing], settings: Sentinel
) -> tuple[Memory, tuple[Act, ...]]:
    """What to do about the reading of one look. A reading that says nothing changes nothing."""
    level = reading.level
    if level is None:
        return replace(memory, critical_since_s=None), ()
    memory, told = believe(memory, now, level, reading)
    if level is not Level.CRITICAL:
        calm = replace(memory, critical_since_s=None)
        return (calm if memory.level is Level.CRITICAL else replace(calm, advised=False)), told
    if memory.critical_since_s is None:
        return replace(memory, critical_since_s=now), told
    if now - memory.critical_since_s < min(SUSTAINED_S, settings.stopped_interval_s):
        return memory, told
    settling = memory.evicted_at_s is not None and now - memory.evicted_at_s < SETTLE_S
    chosen = choose(standing)
    if settings.on_pressure is OnPressure.EVICT and chosen is not None:
        if settling:
            return memory, told
        evicted = replace(memory, evicted_at_s=now, advised=False)
        why = f"memory pressure is critical ({reading.why})"
        return evicted, (*told, Evict(chosen.account.service.name, why))
    if memory.advised or settling:
        return memory, told
    return replace(memory, advised=True), (*told, _advise(reading, standing, chosen))


def choose(standing: Iterable[Standing]) -> Standing | None:
    """The cheapest victim; None where no one may go."""
    candidates = [each for each in standing if not why_not(each)]
    return min(candidates, key=_goes_first, default=None)


def why_not(standing: Standing) -> str:
    """Why this one may not go, in a few words; empty where it may."""
    account = standing.account
    service = account.service
    rules = (
        (not account.state.is_loaded or account.mention_only, "not loaded"),
        (account.reservation is not None or standing.handled, "being loaded or unloaded"),
        (service.pinned, "pinned"),
        (not service.evictable, "not evictable"),
        (account.stays is not None, "without a way to unload it"),
        (not standing.idle, "busy, or not known to be idle"),
        (account.measured is not None and account.measured.get(RAM, 0) < WORTH, "holding next to nothing"),
    )
    return next((why for is_so, why in rules if is_so), "")


def _goes_first(standing: Standing) -> tuple[bool, int, float, int, str]:
    service = standing.account.service
    active = standing.last_active_s if standing.last_active_s is not None else float("-inf")
    return (service.eager, service.priority, active, -_held(standing.account), service.name)


def _held(account: Account) -> int:
    return (account.measured or account.charge).get(RAM, 0)


def believe(memory: Memory, now: float, level: Level, reading: Reading) -> tuple[Memory, tuple[Act, ...]]:
    """The level that is believed after one more reading, and what is told of that."""
    if level >= memory.level:
        risen = level > memory.level
        return replace(memory, level=level, worse_at_s=now), (_pressure(reading, level),) if risen else ()
    if now - memory.worse_at_s < CALM_S:
        return memory, ()
    return replace(memory, level=level, worse_at_s=now), (_pressure(reading, level),)


def _pressure(reading: Reading, level: Level) -> Tell:
    available = None if reading.available is None else to_mb(reading.available.get(RAM, 0))
    numbers: dict[str, Number] = {"level": level.word, "available_mb": available}
    if level is Level.NORMAL:
        return Tell(Event("pressure", f"Memory pressure is back to normal: {reading.why}.", numbers=numbers))
    severity = Severity.CRITICAL if level is Level.CRITICAL else Severity.WARNING
    text = f"The system is under memory pressure ({level.word}): {reading.why}."
    return Tell(Event("pressure", text, severity, None, "admit status", numbers))


def _advise(reading: Reading, standing: Sequence[Standing], chosen: Standing | None) -> Tell:
    loaded = [each for each in standing if each.account.state.is_loaded]
    if chosen is None:
        reasons = "; ".join(f"{each.account.service.name} is {why_not(each)}" for each in loaded)
        text = f"Memory pressure stays critical ({reading.why}), and no service may be unloaded: "
        text += f"{reasons or 'none is loaded'}."
        return Tell(Event("would_evict", text, Severity.CRITICAL, None, "admit status", {}))
    name = chosen.account.service.name
    freed = mb(chosen.account.measured or chosen.account.charge)
    text = (
        f"Memory pressure stays critical ({reading.why}). {name} is idle and the cheapest to unload: "
        f"that gives back about {freed} MB."
    )
    numbers: dict[str, Number] = {"freed_mb": freed, "priority": chosen.account.service.priority}
    return Tell(Event("would_evict", text, Severity.CRITICAL, name, f"admit unload {name}", numbers))


def idle_too_long(
    memory: Mapping[str, float], now: float, standing: Iterable[Standing]
) -> tuple[Mapping[str, float], tuple[Act, ...]]:
    """Who is unloaded because it was idle for its idle_unload_s. `memory`: since when each is known to be idle. Whom
    somebody loads or unloads is not: how long a load waits for its disk is not held against what it loads."""
    since: dict[str, float] = {}
    acts: list[Act] = []
    for each in standing:
        account = each.account
        limit_s = account.service.idle_unload_s
        gone = not account.state.is_loaded or account.mention_only or account.reservation is not None
        if limit_s is None or gone or account.stays is not None:
            continue
        name = account.service.name
        if each.handled:
            since[name] = now
            continue
        if not each.idle:
            if name in memory and each.last_active_s is not None:
                since[name] = memory[name]  # nothing older counts when it is idle again
            continue
        began = memory.get(name, now)
        if each.last_active_s is not None:
            began = max(began, each.last_active_s) if name in memory else each.last_active_s
        since[name] = min(began, now)
        if now - since[name] >= limit_s:
            why = f"it was idle for {ago(now - since[name])} (idle_unload_s: {limit_s:g})"
            acts.append(Evict(name, why, "idle_unloaded"))
            since[name] = now
    return since, tuple(acts)
