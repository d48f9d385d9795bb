"""governing: what the SDK costs inside an app: an allocation given back at once, by one thread and by sixteen; and what
importing it adds to the start of Python."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from typing import Final

from admit_sdk import MemoryGovernor
from bench.measuring import Plan, Results, figures, take_turns
from bench.world import ROOT, python, world

THREADS: Final = (1, 4, 16)
SLICE_S: Final = 0.25
"""One turn: long enough for some tens of changes of threads, short enough that what disturbs one turn misses others."""


def measure(plan: Plan) -> Results:
    """Pairs per second by number of threads, and seconds of starting Python with the SDK and without."""
    rounds = 3 if plan.quick else 21
    slice_s = 0.05 if plan.quick else SLICE_S
    per_s: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for _ in range(rounds):
        for threads in THREADS:
            per_s[threads].append(pairs_per_s(threads, slice_s))
    return {
        "pairs": {
            str(threads): {"per_s": round(statistics.median(found)), "best_per_s": round(max(found))}
            for threads, found in per_s.items()
        },
        "start": {name: figures(seconds) for name, seconds in _starts(plan).items()},
    }


def pairs_per_s(threads: int, slice_s: float) -> float:
    """Allocations that were made and given back per second, by so many threads together on one governor."""
    governor = MemoryGovernor("64GiB", name="bench")
    ends = threading.Event()
    start = threading.Barrier(threads + 1)
    counts = [0] * threads

    def work(index: int) -> None:
        count = 0
        start.wait()
        while not ends.is_set():
            for _ in range(200):
                governor.try_allocate(4096, holder="bench").release()
            count += 200
        counts[index] = count

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for each in workers:
        each.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(slice_s)
    ends.set()
    for each in workers:
        each.join()
    took_s = time.perf_counter() - began
    governor.close()
    return sum(counts) / took_s


def _starts(plan: Plan) -> dict[str, list[float]]:
    with world(1) as home:
        environ = {**home.environ, "PYTHONPATH": str(ROOT)}

        def run(code: str) -> float:
            began = time.perf_counter()
            subprocess.run(python("-c", code), env=environ, check=True, stdin=subprocess.DEVNULL)
            return time.perf_counter() - began

        codes = ("pass", "import admit_sdk", "from admit_sdk import MemoryGovernor")
        return take_turns({code: lambda code=code: run(code) for code in codes}, plan.starts)
