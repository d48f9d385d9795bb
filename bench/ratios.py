"""ratios: the goals, taken from a sketch and held against one run, each with what came of it.

A ratio that fell short says why, as far as the same run shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.measuring import Results

FAR_FEWER_SERVICES: Final = 10


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the list. `reached` is None where it was not measured, and then `measured` says why."""

    number: int
    what: str
    goal: str
    measured: str
    reached: bool | None
    why: str = ""


class NotMeasured(Exception):
    """A figure that this run does not have; the text says why."""


Judge = Callable[[Results], tuple[str, bool, str]]
"""Results -> what was measured, whether that reaches the goal, why where it doesn't."""


def all_of(results: Results) -> list[Ratio]:
    """Every ratio of the list, whether it was measured or not."""
    out = []
    for number, what, goal, judge in LIST:
        try:
            measured, reached, why = judge(results)
            out.append(Ratio(number, what, goal, measured, reached, "" if reached else why))
        except NotMeasured as problem:
            out.append(Ratio(number, what, goal, f"not measured: {problem}", None))
    return out


def part(results: Results, name: str) -> Results:
    """One part's results. Raises NotMeasured."""
    found: Results = results.get(name, {"skipped_whole": f"`{name}` was left out of this run"})
    if "skipped_whole" in found:
        raise NotMeasured(found["skipped_whole"])
    return found


def main_crowd(results: Results) -> Results:
    """The crowd that ratios go by: 1,000 processes, or what there was. Raises NotMeasured."""
    crowds = part(results, "deciding")["crowds"]
    wanted = results["plan"]["main_crowd"]
    return next((crowd for crowd in crowds if crowd["wanted"] == wanted), crowds[0])


def p50(ways: Results, name: str) -> float:
    """A median in ms. Raises NotMeasured."""
    if name not in ways:
        raise NotMeasured(f"`{name}` took no part in this run")
    return float(ways[name]["p50_ms"])


def _against(name: str, other: str, most: float) -> Judge:
    def judge(results: Results) -> tuple[str, bool, str]:
        ways = main_crowd(results)["ways"]
        mine = p50(ways, name)
        theirs = p50(ways, other)
        each = [(c["processes"], c["ways"]) for c in results["deciding"]["crowds"]]
        where = "; ".join(f"{n}: {p50(w, name) / p50(w, other):.2f}x" for n, w in each)
        why = (
            f"of {mine:.2f} ms the look itself takes {p50(ways, 'look'):.2f}: one system call a process as in C, "
            "and for each an interpreter that takes its answer out, hashes it and finds it in a table"
        )
        return f"{mine / theirs:.2f}x ({where})", mine <= most * theirs, why

    return judge


def _faster(results: Results) -> tuple[str, bool, str]:
    ways = main_crowd(results)["ways"]
    mine = p50(ways, "look + match + sum")
    found = {name: p50(ways, name) / mine for name in ("ps", "psutil") if name in ways}
    if not found:
        raise NotMeasured("neither ps nor psutil took part in this run")
    said = ", ".join(f"{factor:.0f}x faster than {name}" for name, factor in found.items())
    return said, min(found.values()) >= 10, "what they cost beyond the reads is less on this machine"


def _unchanged(results: Results) -> tuple[str, bool, str]:
    crowd = main_crowd(results)
    most = max(results["plan"]["services"])
    ratio = p50(crowd["ways"], f"decision, {most} services") / p50(crowd["ways"], "decision")
    why = "something in a decision goes through every service that is declared, not only through those that were seen"
    return f"{ratio:.2f}x ({most} services against {FAR_FEWER_SERVICES})", ratio <= 1.2, why


def _patterns(results: Results) -> tuple[str, bool, str]:
    found = [each for each in part(results, "matching")["patterns"] if "4096" in each]
    slowest = max(found, key=lambda each: float(each["4096"]["max_ms"]))
    took = float(slowest["4096"]["max_ms"])
    within = sum(float(each["4096"]["max_ms"]) <= 5 for each in found)
    why = (
        f"{within} of {len(found)} patterns stay below; the others make RE2's automaton build a state for nearly every "
        "byte. Linear all the same, but with the size of the pattern as the factor"
    )
    return f"{took:.1f} ms at most, by `{slowest['pattern']}`", took <= 5, why


def _main_serving(results: Results) -> Results:
    runs: list[Results] = part(results, "serving")["runs"]
    wanted = results["plan"]["main_crowd"]
    return next((r for r in runs if r["wanted"] == wanted and r["services"] == FAR_FEWER_SERVICES), runs[0])


def _beyond_scan(results: Results) -> tuple[str, bool, str]:
    run = _main_serving(results)
    beyond = float(run["beyond_scan_p50_ms"])
    bare = p50(run["one"], "bare")
    why = f"bare FastAPI and uvicorn answer in {bare:.2f} ms on this run's clock; {beyond - bare:.2f} ms are ours"
    return f"scan + {beyond:.2f} ms, of {p50(run['one'], 'GET /capacity'):.2f} ms", beyond <= 0.6, why


def _last_of_many(results: Results) -> tuple[str, bool, str]:
    run = _main_serving(results)
    ratio = p50(run["burst"], "GET /capacity") / p50(run["burst"], "GET /capacity alone")
    bare = p50(run["burst"], "bare")
    why = f"sixteen answers of bare FastAPI and uvicorn take {bare:.1f} ms by themselves; ours share two looks"
    return f"{ratio:.1f}x", ratio <= 4, why


def _stalled(results: Results) -> tuple[str, bool, str]:
    found = part(results, "stalling")
    delay, dropped = float(found["delay"]["max_ms"]), int(found["dropped"])
    measured = f"{found['delay']['p50_ms']:.0f} ms (median), {delay:.0f} ms (worst) while the map is held for "
    measured += f"{found['held']['p50_ms']:.0f} ms; dropped in {dropped} of {found['decisions']} decisions"
    why = (
        "the reader has to wait before it can tell that a process hangs, and the machine was busy with the bench itself"
    )
    return measured, delay <= 50 and not dropped, why


def _changes(results: Results) -> tuple[str, bool, str]:
    ways = part(results, "changing")["ways"]
    tried = {name: each for name, each in ways.items() if "of" in each}
    wrong = [name for name, each in tried.items() if each["right"] < each["of"]]
    if not tried:
        raise NotMeasured("no change could be made here")
    left_out = [f"{name}: {each['skipped']}" for name, each in ways.items() if "skipped" in each]
    said = f"{len(tried) - len(wrong)} of {len(tried)} right each time" + "".join(f"; not tried: {x}" for x in left_out)
    return said, not wrong, f"wrong: {', '.join(wrong)}"


def _commands(results: Results) -> tuple[str, bool, str]:
    found = part(part(results, "starting"), "command")
    bare = p50(found, "python -I -S -c pass")
    status, load = (p50(found, f"admit {word}, until its request") / bare for word in ("status", "load"))
    why = f"a Python with site-packages takes {p50(found, 'python -c pass') / bare:.1f}x by itself"
    return f"status {status:.1f}x, load {load:.1f}x", max(status, load) <= 3, why


def _idle(results: Results) -> tuple[str, bool, str]:
    found = part(results, "idling")
    mine = found["programs"]["admitd"]
    other = found["programs"].get("earlyoom --dryrun")
    cpu, wakeups = float(mine["cpu_ms_a_minute"]), float(mine["wakeups_a_minute"])
    beside = f"{other['cpu_ms_a_minute']:.1f} ms" if other else "earlyoom is not here"
    calm = cpu <= float(other["cpu_ms_a_minute"]) if other else cpu == 0
    why = "something in the daemon keeps a timer while nobody asks"
    return f"{wakeups:.0f} wake-ups, {cpu:.1f} ms of CPU a minute (earlyoom: {beside})", wakeups == 0 and calm, why


def _watching(results: Results) -> tuple[str, bool, str]:
    told, worst = [], 0.0
    for crowd in part(results, "watching")["crowds"]:
        other = crowd["programs"].get("nohang --monitor")
        if other is None:
            raise NotMeasured("nohang is not here")
        mine = float(crowd["programs"]["admitd"]["cpu_ms_a_minute"])
        beside = float(other["cpu_ms_a_minute"])
        worst = max(worst, mine / beside)
        told.append(f"{crowd['processes']} processes: {mine:.1f} ms, nohang {beside:.1f} ms")
    why = (
        "a round derives the ledger of every service and reads five files of each of its processes; nohang reads two "
        "files in all, and looks at no process before memory is short"
    )
    return "; ".join(told), worst <= 1, why


def _memory(results: Results) -> tuple[str, bool, str]:
    found = part(results, "idling")["programs"]
    mine, bare = float(found["admitd"]["rss_mib"]), found.get("bare FastAPI + uvicorn")
    why = f"bare FastAPI and uvicorn hold {bare['rss_mib']:.0f} MiB of that by themselves here" if bare else ""
    return f"{mine:.0f} MiB resident", mine <= 50, why


def _cold_start(results: Results) -> tuple[str, bool, str]:
    found = part(part(results, "starting"), "daemon")
    ratio = p50(found, "admitd") / p50(found, "bare FastAPI + uvicorn")
    why = (
        "YAML, RE2 and our own modules are imported, patterns compiled, and the first look taken, before the first 200"
    )
    return f"{ratio:.2f}x ({p50(found, 'admitd'):.0f} ms)", ratio <= 1.2, why


def _listed(results: Results) -> tuple[str, bool, str]:
    found = part(results, "leases")
    took = p50(found["listed"], "100")
    why = "each record's name is looked at anew, since a look must not trust its memory of what stands"
    return f"{took:.2f} ms (by one who never saw them: {p50(found['cold'], '100'):.1f} ms)", took <= 0.2, why


def _freed(results: Results) -> tuple[str, bool, str]:
    found = part(results, "leases")["freed"]
    why = "the kernel takes that long to end a process when both processors are busy"
    return f"{found['p50_ms']:.1f} ms (median), {found['max_ms']:.1f} ms (worst)", float(found["max_ms"]) <= 10, why


def _pairs(results: Results) -> tuple[str, bool, str]:
    found = part(results, "governing")["pairs"]["1"]
    by_clock, by_processor = int(found["per_s"]), int(found["per_processor_s"])
    why = "each pair is two calls, a lock, a dictionary and an object with a finalizer, all in Python"
    return f"{by_clock:,} ({by_processor:,} in a second of its processor's time)", by_clock >= 300_000, why


def _crowded_pairs(results: Results) -> tuple[str, bool, str]:
    found = part(results, "governing")["pairs"]
    ratio = float(found["16"]["per_s"]) / float(found["1"]["per_s"])
    why = "threads of one interpreter take turns, and each turn that ends under the lock makes the others wait for it"
    return f"{ratio:.2f}x of one thread's", ratio >= 0.5, why


def _sdk_import(results: Results) -> tuple[str, bool, str]:
    found = part(part(results, "governing"), "start")
    bare = p50(found, "pass")
    ratio = p50(found, "import admit_sdk") / bare
    whole = p50(found, "from admit_sdk import MemoryGovernor") / bare
    return f"{ratio:.2f}x (with the governor: {whole:.1f}x)", ratio <= 1.5, "something is imported before it is used"


def _overhead(what: str, mine: str, plain: str) -> Judge:
    def judge(results: Results) -> tuple[str, bool, str]:
        found = part(results, "swapping")
        ways, share = found["ways"], float(found["added"][what])
        said = f"{share:+.1%} within a turn; {p50(ways, mine):.0f} ms beside {p50(ways, plain):.0f} of the plain way"
        return said, share <= 0.03, "the threads that hand over to each other wait for a processor"

    return judge


def _stops(results: Results) -> tuple[str, bool, str]:
    found = part(results, "swapping")["stops"]
    why = "one token of this model takes that long here"
    return f"{found['p50_ms']:.0f} ms (median), {found['p99_ms']:.0f} ms (p99)", float(found["p99_ms"]) < 100, why


LIST: Final[tuple[tuple[int, str, str, Judge], ...]] = (
    (
        1,
        "look + match + sum, against the C reader that keeps its descriptors",
        "<= 1.5x",
        _against("look + match + sum", "C kept", 1.5),
    ),
    (1, "the same, against C that opens each cmdline", "<= 0.8x", _against("look + match + sum", "C cmdline", 0.8)),
    (1, "the same, against ps and psutil", "at least 10x faster", _faster),
    (2, "a decision with 1,000 services on an unchanged table, against 10", "<= 1.2x", _unchanged),
    (3, "the slowest pattern on a hostile line of 4 KiB", "<= 5 ms", _patterns),
    (4, "GET /capacity, median", "<= scan + 0.6 ms", _beyond_scan),
    (4, "the last of 16 at once, against one", "<= 4x", _last_of_many),
    (
        5,
        "one process stalled for 300 ms: delay of an answer; is it still charged?",
        "<= 50 ms, never dropped",
        _stalled,
    ),
    (6, "exec, title, argv rewritten, dead leader, reused pid", "right on the next look", _changes),
    (7, "`admit status`, `admit load` until the request, against `python -I -S -c pass`", "<= 3x", _commands),
    (7, "the idle daemon", "0 wake-ups, CPU <= earlyoom's", _idle),
    (7, "the sentinel's rounds, CPU a minute", "<= nohang's", _watching),
    (7, "the daemon's memory", "<= 50 MiB", _memory),
    (7, "the daemon's cold start, against bare FastAPI + uvicorn", "<= 1.2x", _cold_start),
    (8, "100 reservations listed", "<= 0.2 ms", _listed),
    (8, "a reservation freed after SIGKILL of its holder", "<= 10 ms", _freed),
    (9, "SDK: allocations made and given back, one thread", ">= 300,000 a second", _pairs),
    (9, "the same, sixteen threads together", ">= 0.5x of one thread's", _crowded_pairs),
    (9, "`import admit_sdk`, against bare Python's start", "<= 1.5x", _sdk_import),
    (9, "a model loaded by a pool, against mlx_lm.load", "<= 3 % more", _overhead("load", "pool, load", "mlx_lm.load")),
    (9, "two models swapped by a pool, against mlx_lm", "<= 3 % more", _overhead("swap", "pool, swap", "mlx_lm, swap")),
    (9, "a cancelled answer has stopped, p99", "< 100 ms", _stops),
)


def as_json(ratios: list[Ratio]) -> list[dict[str, Any]]:
    """For the raw results."""
    return [
        {"number": r.number, "what": r.what, "goal": r.goal, "measured": r.measured, "reached": r.reached, "why": r.why}
        for r in ratios
    ]
