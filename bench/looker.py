"""looker: one competitor of the bench in a process of its own: `python -m bench.looker WAY`, one turn for each line.

Answers "nanoseconds processes loaded": how long it took, how many processes it saw, how many services were charged.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

Counts = tuple[int, int]
"""Processes seen, services charged."""


def gate_way(what: str) -> Callable[[], Counts]:
    """Our own ways: a look alone; look, match and sum; a decision; a reservation made and given back."""
    from admitd.app import descriptors_to_keep, furnish
    from admitd.gate import Answer, Ask

    gate = furnish(os.environ, keep=descriptors_to_keep()).gate
    target = list(gate.capacity().services)[-1]
    dry = [Ask(target, dry_run=True)]
    held = [Ask(target)]

    def look() -> Counts:
        seen = gate.table.look(gate.matcher(gate.capacity()))
        return seen.count, len(seen.sightings)

    def scene() -> Counts:
        seen = gate.look()
        return seen.look.count, len(seen.ledger.accounts)

    def decide() -> Counts:
        _, seen = gate.decide(dry)
        return (seen.look.count, len(seen.ledger.accounts)) if seen is not None else (0, 0)

    def reserve() -> Counts:
        (answer,), seen = gate.decide(held)
        if not isinstance(answer, Answer) or seen is None:
            raise RuntimeError(f"no verdict: {answer}")
        gate.give_back(answer.verdict.reservation.id)  # type: ignore[union-attr]
        return seen.look.count, len(seen.ledger.accounts)

    ways: dict[str, Callable[[], Counts]] = {"look": look, "scene": scene, "decide": decide, "reserve": reserve}
    return ways[what]


def ps_alone() -> Counts:
    """ps with our columns, its output read and thrown away."""
    from admitd.processes.ps import COLUMNS

    return _ps(*COLUMNS)


def ps_short() -> Counts:
    """ps with the fewest columns that would do."""
    return _ps("-o", "pid=", "-o", "stat=", "-o", "command=")


def _ps(*columns: str) -> Counts:
    environ = {"LC_ALL": "C", "TZ": "UTC"}
    done = subprocess.run(("/bin/ps", "-axww", *columns), env=environ, capture_output=True, check=True)
    return done.stdout.count(b"\n"), 0


def psutil_way() -> Counts:
    """psutil.process_iter with what a decision needs."""
    import psutil  # type: ignore[import-untyped]

    return sum(1 for _ in psutil.process_iter(["pid", "status", "cmdline"])), 0


WAYS: Final = ("look", "scene", "decide", "reserve", "ps-look", "ps", "ps-short", "psutil")


def way_of(name: str) -> Callable[[], Counts]:
    if name == "ps-look":
        os.environ["ADMIT_PROCESS_READER"] = "ps"
        return gate_way("look")
    others: dict[str, Callable[[], Counts]] = {"ps": ps_alone, "ps-short": ps_short, "psutil": psutil_way}
    return others[name] if name in others else gate_way(name)


def main() -> None:
    way = way_of(sys.argv[1])
    for _ in sys.stdin:
        began = time.perf_counter_ns()
        processes, charged = way()
        took = time.perf_counter_ns() - began
        print(took, processes, charged, flush=True)


if __name__ == "__main__":
    main()
