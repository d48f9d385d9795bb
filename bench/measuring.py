"""measuring: what all parts of the bench share: medians, turns taken in a fixed disorder, processes that answer lines.

Competitors take turns within one run, so that whatever disturbs the machine hits all alike.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 10.0
Figures = dict[str, float]
Results = dict[str, Any]


class Skipped(Exception):
    """A part, or a competitor, that can't be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. The quick one shows that all of it runs; its figures are nothing to go by."""

    quick: bool
    crowds: tuple[int, ...]
    services: tuple[int, ...]
    main_crowd: int
    turns: int
    dear_every: int
    requests: int
    bursts: int
    flood_s: float
    starts: int
    idle_s: float
    kills: int
    stalls: int


FULL: Final = Plan(
    quick=False,
    crowds=(300, 1_000, 5_000),
    services=(10, 100, 1_000),
    main_crowd=1_000,
    turns=200,
    dear_every=8,
    requests=200,
    bursts=40,
    flood_s=1.5,
    starts=40,
    idle_s=60.0,
    kills=100,
    stalls=12,
)
QUICK: Final = Plan(
    quick=True,
    crowds=(150,),
    services=(10, 1_000),
    main_crowd=150,
    turns=8,
    dear_every=4,
    requests=10,
    bursts=3,
    flood_s=0.2,
    starts=3,
    idle_s=2.0,
    kills=5,
    stalls=2,
)


def figures(seconds: Sequence[float]) -> Figures:
    """Median, 99th percentile and largest in milliseconds, and how many there were."""
    ordered = sorted(seconds)
    at_99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 4),
        "p99_ms": round(at_99 * 1e3, 4),
        "max_ms": round(ordered[-1] * 1e3, 4),
        "n": len(ordered),
    }


def take_turns(
    competitors: Mapping[str, Callable[[], float]], turns: int, dear: frozenset[str] = frozenset(), dear_every: int = 1
) -> dict[str, list[float]]:
    """Seconds by competitor; each turn in another order. The `dear` ones take part in every `dear_every`th turn only.

    The first turn warms up, and is not counted.
    """
    disorder = random.Random(2189)
    out: dict[str, list[float]] = {name: [] for name in competitors}
    for turn in range(turns + 1):
        names = [name for name in competitors if turn % dear_every == 0 or name not in dear]
        disorder.shuffle(names)
        for name in names:
            seconds = competitors[name]()
            if turn:
                out[name].append(seconds)
    return {name: seconds for name, seconds in out.items() if seconds}


class Resident:
    """A process that does one thing for each line it is sent, and answers with one line."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, executable: str | None = None
    ) -> None:
        """`executable`: what is run, where the command line should say something else."""
        self.process = subprocess.Popen(
            command, executable=executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True, bufsize=1
        )
        self._name = " ".join(Path(word).name for word in command)
        self.last: list[str] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> list[str]:
        """The words of its next line. Raises Skipped where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Skipped(f"`{self._name}` ended with exit status {self.process.wait(PATIENCE_S)}")
        self.last = line.split()
        return self.last

    def once(self) -> float:
        """One turn; the seconds that the process itself measured, which its answer begins with, in nanoseconds."""
        self.send()
        return int(self.hear()[0]) / 1e9

    def end(self) -> None:
        """Close its stdin, which ends it; where it does not, by its pid."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        end(self.process)


def end(process: subprocess.Popen[Any]) -> None:
    """Wait for a process to end; SIGKILL to it, by its pid, where it will not."""
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def resident(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Resident]:
    """A Resident for as long as the block runs."""
    one = Resident(command, env)
    try:
        yield one
    finally:
        one.end()


def wait_until(what: str, ready: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Poll until `ready`. Raises Skipped when it takes too long."""
    give_up = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > give_up:
            raise Skipped(f"{what} took more than {patience_s:g} s")
        time.sleep(0.002)
