"""measuring: what a service, or a command, really holds while it is used: its peak, from the outside, look by look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from admitd.core.terms import ProcessId
from admitd.core.units import MIB
from admitd.gate import Gate
from admitd.memory import Memory
from admitd.memory.gpus import Gpus
from admitd.processes.cputime import CpuTimes

LOOK_EVERY_S: Final = 0.25
FIND_EVERY_S: Final = 1.0
"""How often the process table is looked at; who is known is measured in between."""
IDLE_SHARE: Final = 0.01
"""Of one core: who takes less all the while was not used."""

Who = Callable[[], Sequence[ProcessId]]


@dataclass(slots=True)
class Measured:
    """What was seen so far, in bytes. `kernel_peak` is the kernel's own, since the process started: it misses nothing,
    and is there only where there was one process all the while. `group_peak`: of the control group that they have to
    themselves, files that the kernel caches for it included, so no budget. `gpu_peaks`: by GPU, which is not RAM."""

    peak: int = 0
    last: int = 0
    kernel_peak: int | None = None
    group_peak: int | None = None
    gpu_peaks: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    unreadable: int = 0
    began_s: float | None = None
    watched_s: float = 0.0
    cpu_s: float | None = None
    processes: set[ProcessId] = field(default_factory=set)

    @property
    def most(self) -> int:
        """The highest of all."""
        return max(self.peak, self.kernel_peak or 0)

    @property
    def was_idle(self) -> bool:
        """Whether it hardly worked while it was watched, as far as that is known."""
        return self.cpu_s is not None and self.cpu_s < IDLE_SHARE * self.watched_s


class Measuring:
    """Looks at those whom `who` names, and at their children."""

    def __init__(self, who: Who, memory: Memory, times: CpuTimes, gpus: Gpus | None = None) -> None:
        self._who = who
        self._memory = memory
        self._gpus = gpus
        self._times = times
        self._known: tuple[ProcessId, ...] = ()
        self._found_at_s: float | None = None
        self._cpu: dict[ProcessId, tuple[float, float]] = {}
        self.seen = Measured()

    def look(self, now: float) -> int | None:
        """What they hold now, in bytes; None where nobody is there, or it can't be read."""
        if self._found_at_s is None or now - self._found_at_s >= FIND_EVERY_S:
            self.find(now)
        held = self._memory.footprint(self._known, 0) if self._known else None
        if held is None or held == 0:
            self.seen.unreadable += bool(self._known)
            return None
        seen = self.seen
        seen.began_s = now if seen.began_s is None else seen.began_s
        seen.looks, seen.last, seen.peak = seen.looks + 1, held, max(seen.peak, held)
        seen.watched_s = now - seen.began_s
        if len(seen.processes) == 1:
            seen.kernel_peak = self._memory.peak(self._known[0]) or seen.kernel_peak
        else:
            seen.kernel_peak = None
        seen.group_peak = self._memory.group_peak(self._known) or seen.group_peak
        if self._gpus is not None:
            for gpu, amount in self._gpus.held({each.pid for each in self._known}).items():
                seen.gpu_peaks[gpu] = max(seen.gpu_peaks.get(gpu, 0), amount)
        return held

    def find(self, now: float) -> tuple[ProcessId, ...]:
        """Who is there now, children included."""
        told = self._times.of(named := tuple(self._who()))
        self._known = tuple(told) if told else named
        self._found_at_s = now
        self.seen.processes.update(self._known)
        for each, seconds in (told or {}).items():
            first = self._cpu.get(each, (seconds, seconds))[0]
            self._cpu[each] = (first, seconds)
        if self._cpu:
            self.seen.cpu_s = sum(last - first for first, last in self._cpu.values())
        return self._known


def processes_of(gate: Gate, name: str) -> tuple[ProcessId, ...]:
    """The processes that are the service now, found as the ledger finds them. Its check is not run."""
    scene = gate.look({})
    return tuple(each.id for each in scene.ledger.account(scene.capacity.services[name]).processes)


def in_words(size: int) -> str:
    """Whole MB, rounded up: 1,234 MB."""
    return f"{-(-size // MIB):,} MB"
