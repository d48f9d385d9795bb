"""reboot: how the last run ended: cleanly, by a daemon that was killed, or by a machine that went down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from admitd.core.acts import Act, Tell, ago
from admitd.core.events import Event, Number, Severity

BEFORE_S: Final = 60.0
PANICS_S: Final = 72 * 3600.0
"""How long a panic report matters, as metal-guard's cooldown has it (docs/macos.md)."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The sign of life that a daemon leaves behind, and takes away at a clean end: its boot, and its last round, by
    that boot's own clock and by the wall's, which may have jumped."""

    boot: str
    since_boot_s: float
    at: float


@dataclass(frozen=True, slots=True)
class Past:
    """An entry of the journal, by its boot's own clock and by the wall's."""

    since_boot_s: float
    at: float
    boot: str
    kind: str
    service: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is told, and whom the sentinel must not load again by itself, until somebody else has: found at
    `held_since_s` of the machine's monotonic clock."""

    acts: tuple[Act, ...] = ()
    held_back: frozenset[str] = frozenset()
    held_since_s: float = 0.0


def judge(
    alive: Alive | None, boot: str, history: Sequence[Past], panics: Iterable[float] = (), now: float = 0.0
) -> Finding:
    """What the last run's end was. `panics`: when the system wrote each panic report, seconds since 1970."""
    recent = [at for at in panics if 0 <= now - at <= PANICS_S]
    last = alive or _last_of(history, boot)
    if last is None:
        return Finding()
    if last.boot == boot:
        return _killed(last, history) if alive is not None else Finding()
    suspects = _admitted_before(history, last)
    text = f"The machine went down without a clean stop, {ago(max(0.0, now - last.at))} ago"
    if recent:
        text += f", and there {_reports(len(recent))} of the last 72 hours"
    if suspects:
        text += (
            f". In the minute before, this was loaded: {', '.join(suspects)}. admit does not load it again by itself"
        )
    command = f"admit load {suspects[-1]}" if suspects else None
    numbers: dict[str, Number] = {
        "last_seen_at": round(last.at, 1),
        "admitted_before": ", ".join(suspects) or None,
        "panic_reports": len(recent),
    }
    service = suspects[-1] if suspects else None
    event = Event("unclean_reboot", f"{text}.", Severity.CRITICAL, service, command, numbers)
    return Finding((Tell(event),), frozenset(suspects))


def _reports(count: int) -> str:
    return "is a panic report" if count == 1 else f"are {count} panic reports"


def _last_of(history: Sequence[Past], boot: str) -> Alive | None:
    """What the journal says where the daemon's own sign is missing: the last entry of an earlier boot in which a daemon
    was started and not stopped; none where a daemon of this boot has judged that already."""
    if any(each.boot == boot and each.kind == "daemon_started" for each in history):
        return None
    earlier = [each for each in history if each.boot != boot]
    ends = [each for each in earlier if each.kind in ("daemon_started", "daemon_stopped")]
    if not ends or ends[-1].kind == "daemon_stopped" or ends[-1].boot != earlier[-1].boot:
        return None
    return Alive(earlier[-1].boot, earlier[-1].since_boot_s, earlier[-1].at)


def _admitted_before(history: Sequence[Past], last: Alive) -> list[str]:
    names = (
        each.service
        for each in history
        if each.service is not None
        and each.kind in ("admitted", "loaded", "recovering")
        and each.boot == last.boot
        and each.since_boot_s >= last.since_boot_s - BEFORE_S
    )
    return list(dict.fromkeys(names))


def _killed(last: Alive, history: Sequence[Past]) -> Finding:
    """The machine is the same, the daemon was killed: a recovery that it had begun may be left half done."""
    open_ones: dict[str, None] = {}
    for each in history:
        if each.service is None or each.boot != last.boot:
            continue
        if each.kind == "recovering":
            open_ones[each.service] = None
        elif each.kind in ("recovered", "gave_up", "refused_recovery", "load_failed", "unload_failed"):
            open_ones.pop(each.service, None)
    acts = []
    for name in open_ones:
        text = f"admitd was ended in the middle of recovering {name}: look whether it is loaded."
        acts.append(Tell(Event("load_failed", text, Severity.WARNING, name, f"admit load {name}", {})))
    return Finding(tuple(acts))
