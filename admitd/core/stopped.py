"""stopped: when a process that must keep running, and stands still, is woken; and when someone seems to mean it.

The rules, in order; the first that applies decides:
1. it runs: nothing, and once it has run through FORGET_S after its last waking, that is forgotten;
2. it is traced: a debugger holds it, and a SIGCONT would be dropped; nothing;
3. it was given up: nothing, until it has been seen running;
4. the system is under critical memory pressure: told once; waking it would pull its memory back in;
5. it was woken WAKES_MAX times within FORGET_S, the last of them PAUSES_S ago: given up, and told;
6. the pause after its last waking is over: woken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from admitd.core.acts import Act, Tell, Wake, ago
from admitd.core.events import Event, Severity
from admitd.core.terms import Level, Process, ProcessId

WAKES_MAX: Final = 3
FORGET_S: Final = 600.0
PAUSES_S: Final = (1.0, 5.0, 30.0)
"""After the first waking, the second, the third: whoever stops it again within these probably means it."""


@dataclass(frozen=True, slots=True)
class Safelisted:
    """One process of the safelist, as it is now. `starved`: parked by macOS for want of memory, which `ps` hides."""

    process: Process
    name: str
    claim: str
    starved: bool = False


@dataclass(frozen=True, slots=True)
class Spell:
    """What is remembered of one process."""

    ran_at_s: float
    wakes: tuple[float, ...] = ()
    gave_up: bool = False
    told_pressure: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    spells: Mapping[ProcessId, Spell] = field(default_factory=dict)


def step(memory: Memory, now: float, seen: Iterable[Safelisted], level: Level | None) -> tuple[Memory, tuple[Act, ...]]:
    """What to do about `seen`, which is everything on the safelist that lives."""
    spells: dict[ProcessId, Spell] = {}
    acts: list[Act] = []
    for each in seen:
        if each.process.id in spells:
            continue
        spell = memory.spells.get(each.process.id) or Spell(now)
        spells[each.process.id], asked = _judge(spell, now, each, level)
        acts += asked
    return Memory(spells), tuple(acts)


def refused(memory: Memory, process: ProcessId) -> Memory:
    """The system would not let it be woken: trying again would change nothing."""
    spell = memory.spells.get(process)
    return memory if spell is None else Memory({**memory.spells, process: replace(spell, gave_up=True)})


def not_woken(memory: Memory, process: ProcessId) -> Memory:
    """It could not be tried just now: that was no waking, and says nothing of who might mean it."""
    spell = memory.spells.get(process)
    return memory if spell is None else Memory({**memory.spells, process: replace(spell, wakes=spell.wakes[:-1])})


def _judge(spell: Spell, now: float, seen: Safelisted, level: Level | None) -> tuple[Spell, tuple[Act, ...]]:
    recent = tuple(at for at in spell.wakes if now - at < FORGET_S)
    process = seen.process
    # The flag of a starved process stays after it was woken, so it is woken once and then believed to run.
    still = process.stopped or (seen.starved and not spell.wakes)
    if not still:
        return Spell(now, spell.wakes if seen.starved else recent), ()
    if process.traced or spell.gave_up:
        return spell, ()
    stood_s = now - spell.ran_at_s
    what = f"{seen.name} (process {process.id.pid}) is stopped (state T)"
    if level is Level.CRITICAL:
        if spell.told_pressure:
            return spell, ()
        text = f"{what} and is not woken while memory pressure is critical: that would pull its memory back in."
        return replace(spell, told_pressure=True), (_tell("stopped", text, seen, stood_s, Severity.WARNING),)
    if recent and now - recent[-1] < PAUSES_S[min(len(recent), len(PAUSES_S)) - 1]:
        return spell, ()
    if len(recent) >= WAKES_MAX:
        text = (
            f"{what} again, after it was woken {len(recent)} times within {ago(now - recent[0])}: "
            "someone seems to mean it, and it is left as it is."
        )
        gave_up = replace(spell, gave_up=True)
        return gave_up, (_tell("gave_up_waking", text, seen, stood_s, Severity.CRITICAL, len(recent)),)
    woken = replace(spell, wakes=(*recent, now), told_pressure=False)
    return woken, (Wake(process, seen.name, seen.claim, stood_s),)


def _tell(kind: str, text: str, seen: Safelisted, stood_s: float, severity: Severity, wakes: int = 0) -> Tell:
    numbers = {"pid": seen.process.id.pid, "stopped_for_s": round(stood_s, 1), "wakes": wakes}
    command = f"kill -CONT {seen.process.id.pid}"
    return Tell(Event(kind, text, severity, seen.name, command, numbers))
