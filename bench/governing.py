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
    found: dict[int, list[tuple[float, float]]] = {threads: [] for threads in THREADS}
    for _ in range(rounds):
        for threads in THREADS:
            found[threads].append(pairs_per_s(threads, slice_s))
    return {
        "pairs": {str(threads): _medians(rounds_of_it) for threads, rounds_of_it in found.items()},
        "start": {name: figures(seconds) for name, seconds in _starts(plan).items()},
    }


def _medians(found: list[tuple[float, float]]) -> Results:
    by_clock, by_processor = zip(*found, strict=True)
    return {"per_s": round(statistics.median(by_clock)), "per_processor_s": round(statistics.median(by_processor))}


def pairs_per_s(threads: int, slice_s: float) -> tuple[float, float]:
    """Allocations that were made and given back by so many threads together on one governor: per second of the clock,
    and per second that a processor worked for them, which leaves out what else the machine does meanwhile."""
    governor = MemoryGovernor("64GiB", name="bench")
    ends = threading.Event()
    start = threading.Barrier(threads + 1)
    counts = [0] * threads
    worked_s = [0.0] * threads

    def work(index: int) -> None:
        count = 0
        start.wait()
        began = time.thread_time()
        while not ends.is_set():
            for _ in range(200):
                governor.try_allocate(4096, holder="bench").release()
            count += 200
        counts[index], worked_s[index] = count, time.thread_time() - began

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
    return sum(counts) / took_s, sum(counts) / sum(worked_s)


def _starts(plan: Plan) -> dict[str, list[float]]:
    with world(1) as home:
        environ = {**home.environ, "PYTHONPATH": str(ROOT)}

        def run(code: str) -> float:
            began = time.perf_counter()
            subprocess.run(python("-c", code), env=environ, check=True, stdin=subprocess.DEVNULL)
            return time.perf_counter() - began

        codes = ("pass", "import admit_sdk", "from admit_sdk import MemoryGovernor")
        return take_turns({code: lambda code=code: run(code) for code in codes}, plan.starts)
