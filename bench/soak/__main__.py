"""`python -m bench.soak [--minutes N] [--out PAGE]`: services that want twice the memory there is, by several guards.

In a memory cgroup, with impatient clients that start them again and again: the kernel alone, earlyoom, and `admit`.
Exit 0 where `admit` kept its word: nothing was killed, everything admitted finished, every refusal had a remedy. 77
where no cgroup can be made here, and then the reason is on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.measuring import Results, Skipped
from bench.soak import page, room
from bench.soak.course import ADMIT, EARLYOOM, KERNEL, Course, as_json
from bench.soak.group import group
from bench.world import ROOT, python

GUARDS: Final = (KERNEL, EARLYOOM, ADMIT)
PAGE: Final = ROOT / "docs" / "reliability.md"
SKIPPED: Final = 77
START_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large it all is. `jobs_mb` together want about twice `limit_mb`."""

    limit_mb: int
    jobs_mb: tuple[int, ...]
    grow_s: float
    work_s: float

    def jobs(self) -> dict[str, int]:
        return {f"job-{place}": size_mb for place, size_mb in enumerate(self.jobs_mb, 1)}


FULL: Final = Size(1024, (300, 320, 340, 360, 380, 400), grow_s=1.0, work_s=3.0)
SHORT: Final = Size(384, (110, 120, 130, 140, 150, 160), grow_s=0.3, work_s=2.5)


def main() -> int:
    """Run the courses one after the other, and write the page."""
    options = argparse.ArgumentParser(prog="scripts/memory-pressure-soak", description=__doc__)
    options.add_argument("--minutes", type=minutes_of, default=3.0, help="how long the clients of each course ask (3)")
    options.add_argument("--short", action="store_true", help="a small group, small jobs: shows that it works")
    options.add_argument("--only", action="append", choices=GUARDS, help="only this guard; may be given more than once")
    options.add_argument("--out", type=Path, help="the page to write; docs/reliability.md after a whole run")
    options.add_argument("--json", type=Path, help="where the raw results go")
    given = options.parse_args()
    size = SHORT if given.short else FULL
    for number in (signal.SIGTERM, signal.SIGHUP):  # as for Ctrl-C: the room and the group go with us
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        room.check()
        results = soak(size, given.minutes * 60, given.only or GUARDS)
    except Skipped as why:
        print(f"memory-pressure-soak: skipped: {why}", file=sys.stderr)
        return SKIPPED
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    whole = not given.short and not given.only
    if given.out or whole:
        page.save(results, given.out or PAGE)
    for line in page.summary(results):
        print(line)
    broken = list(page.broken(results["courses"].get(ADMIT, {})))
    for line in broken:
        print(f"memory-pressure-soak: {line}", file=sys.stderr)
    return bool(broken)


def minutes_of(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 1440:
        raise argparse.ArgumentTypeError("a number of minutes: more than 0, and no more than a day")
    return minutes


def soak(size: Size, seconds: float, guards: tuple[str, ...] | list[str]) -> Results:
    """Each guard's course, in a fresh group. Raises Skipped where none can be run at all."""
    results: Results = {"limit_mb": size.limit_mb, "jobs_mb": list(size.jobs_mb), "seconds": seconds, "courses": {}}
    results |= {"grow_s": size.grow_s, "work_s": size.work_s}
    for guard in guards:
        print(f"{guard} ...", file=sys.stderr, flush=True)
        results["courses"][guard] = one(size, seconds, guard, results)
    return results


def one(size: Size, seconds: float, guard: str, results: Results) -> dict[str, Any]:
    """One course, in a group and a room of its own."""
    with tempfile.TemporaryDirectory(prefix="admit-soak-") as folder, group(size.limit_mb << 20) as made:
        results["cgroups"] = made.version
        course = Course(
            guard, str(made.path), size.limit_mb, seconds, size.jobs(), size.grow_s, size.work_s, folder, room.pids()
        )
        plan = Path(folder, "plan.json")
        plan.write_text(as_json(course))
        done = subprocess.run(
            room.command(python("-m", "bench.soak.course", str(plan))),
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=seconds + START_S + 20 * (size.grow_s + size.work_s),
        )
        if done.returncode != 0:
            raise RuntimeError(f"the course of {guard} ended with exit status {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        most = made.most()
        return {**found, "kernel_kills": made.kills(), "most_mb": None if most is None else most >> 20}


if __name__ == "__main__":
    sys.exit(main())
