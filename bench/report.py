"""report: the results of one run as docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.measuring import Results
from bench.ratios import NotMeasured, Ratio, all_of, part


def machine() -> str:
    """What it was measured on; no name, no path."""
    processor = "an unknown processor"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    except OSError:
        pass
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"{os.cpu_count()} cores ({processor}), {gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def write(results: Results) -> str:
    """The whole page."""
    ratios = all_of(results)
    quick = results["plan"]["quick"]
    parts = [
        "# Performance",
        "",
        "Written by `scripts/bench`, which measures everything anew and writes this page. All figures are medians of "
        "one run, in milliseconds where no unit stands; competitors took turns within that run, so that ratios hold "
        "where absolute figures don't. The raw results are then in `bench/out/`.",
        "",
        f"Machine: {results['machine']}. Load when it began: {results['load']}.",
        "",
    ]
    if quick:
        parts += ["**This was a quick run: it shows that the bench runs, and its figures are nothing to go by.**", ""]
    parts += ["## Goals", "", *_goals(ratios), ""]
    for title, name, render in SECTIONS:
        parts += [f"## {title}", ""]
        try:
            parts += [*render(part(results, name), results), ""]
        except NotMeasured as why:
            parts += [f"Not measured: {why}.", ""]
    return "\n".join(parts).rstrip() + "\n"


def _goals(ratios: Sequence[Ratio]) -> Iterator[str]:
    reached = sum(ratio.reached is True for ratio in ratios)
    yield f"{reached} of {len(ratios)} reached. The goals come from measurements of a sketch, before this was written."
    yield ""
    said = {True: "reached", False: "fell short", None: "–"}
    rows = [(str(r.number), r.what, r.goal, r.measured, said[r.reached]) for r in ratios]
    yield from _table(("", "what", "goal", "measured", ""), rows)
    short = [ratio for ratio in ratios if ratio.reached is False]
    if short:
        yield ""
        yield "What fell short, and why:"
        yield ""
        for ratio in short:
            yield f"- {ratio.number}. {ratio.what} ({ratio.goal}): {ratio.measured}. {_sentence(ratio.why)}"


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).rstrip(".") + "." if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _ms(figures: Results | None, name: str = "p50_ms") -> str:
    if figures is None:
        return "–"
    value = float(figures[name])
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _both(figures: Results | None) -> str:
    return "–" if figures is None else f"{_ms(figures)} / {_ms(figures, 'p99_ms')}"


def _deciding(found: Results, results: Results) -> Iterator[str]:
    crowds = found["crowds"]
    yield (
        "Median / 99th percentile, with 10 services unless another number stands, of which three are loaded. "
        "`decision` is all of it: reservations, look, match, footprints, sum and verdict, under the machine-wide "
        "lock; x is the ratio to `C kept`, the fastest way to read the table that is known to us."
    )
    yield ""
    names = list(dict.fromkeys(name for crowd in crowds for name in crowd["ways"]))
    head = ["", *(f"{crowd['processes']} processes" for crowd in crowds), "x"]
    rows = []
    for name in names:
        cells = [_both(crowd["ways"].get(name)) for crowd in crowds]
        rows.append([name, *cells, " ".join(_times(crowd["ways"], name) for crowd in crowds)])
    yield from _table(head, rows)
    for crowd in crowds:
        for name, why in crowd["skipped"].items():
            yield f"\n{name} took no part: {why}."


def _times(ways: Results, name: str) -> str:
    if name not in ways or "C kept" not in ways:
        return "–"
    return f"{float(ways[name]['p50_ms']) / float(ways['C kept']['p50_ms']):.1f}"


def _serving(found: Results, results: Results) -> Iterator[str]:
    yield (
        "A real daemon, asked over 127.0.0.1 with connections kept; every answer comes from a look that began after "
        "its request arrived. `bare` is FastAPI and uvicorn answering a dict. One client: median / 99th percentile. "
        "Sixteen at once: until the last has its answer. Sixteen without pause: median / 99th percentile, and answers "
        "per second."
    )
    yield ""
    rows = []
    for run in found["runs"]:
        for name in ("GET /capacity", "POST /admit, dry run", "bare"):
            flood = run["flood"][name]
            rows.append(
                (
                    str(run["processes"]),
                    str(run["services"]),
                    name,
                    _both(run["one"][name]),
                    _ms(run["burst"][name]),
                    _both(flood),
                    f"{flood['per_s']:.0f}",
                )
            )
    yield from _table(("processes", "services", "", "one client", "last of 16", "16 without pause", "answers/s"), rows)


def _starting(found: Results, results: Results) -> Iterator[str]:
    yield "From starting a command to its end, or until its request reached the socket of a daemon:"
    yield ""
    command = part(found, "command")
    bare = float(command["python -I -S -c pass"]["p50_ms"])
    yield from _table(
        ("", "median / p99", "x"),
        [(name, _both(each), f"{float(each['p50_ms']) / bare:.1f}") for name, each in command.items()],
    )
    yield ""
    yield "From starting a server to its first 200 (`admitd`: a whole look at the machine):"
    yield ""
    yield from _table(("", "median / p99"), [(name, _both(each)) for name, each in part(found, "daemon").items()])


def _idling(found: Results, results: Results) -> Iterator[str]:
    yield (
        f"All of them at the same time, for {found['seconds']:g} s; the daemon had answered 100 requests before. "
        "Wake-ups are voluntary context switches of all threads. Just started, the daemon held "
        f"{found['resident_at_start_mib']:.1f} MiB."
    )
    yield ""
    rows = [
        (
            name,
            f"{each['rss_mib']:.1f}",
            f"{each['pss_mib']:.1f}",
            f"{each['cpu_ms_a_minute']:.2f}",
            f"{each['wakeups_a_minute']:.0f}",
        )
        for name, each in found["programs"].items()
    ]
    yield from _table(("", "RSS MiB", "PSS MiB", "CPU ms a minute", "wake-ups a minute"), rows)
    for name, why in found["skipped"].items():
        yield f"\n{name} took no part: {why}."


def _watching(found: Results, results: Results) -> Iterator[str]:
    yield (
        f"Processor time for {found['seconds']:.0f} s, all of them at the same time; then the system calls of each, "
        "as strace counts them, whose own start makes one round a whole look. Three services are loaded. A round of "
        "`admitd` is a look at all services; where no process was started since the last one, it looks only at those "
        "that mattered then. With a safelist, it looks at those on it once a second in between. earlyoom and nohang "
        "look at the machine's memory, and at no process until "
        "that is short. While anything is started on the machine, every round is a whole look."
    )
    yield ""
    rows = []
    for crowd in found["crowds"]:
        for name, each in crowd["programs"].items():
            calls = each.get("calls_a_round")
            rows.append(
                (
                    str(crowd["processes"]),
                    name,
                    f"{each['cpu_ms_a_minute']:.2f}",
                    f"{each['wakeups_a_minute']:.0f}",
                    "–" if calls is None else f"{calls:.0f}",
                    "–" if calls is None else f"{each['calls_a_minute']:.0f}",
                )
            )
    head = ("processes", "", "CPU ms a minute", "wake-ups a minute", "calls a round", "calls a minute")
    yield from _table(head, rows)
    for crowd in found["crowds"]:
        for name, why in crowd["skipped"].items():
            yield f"\n{name} took no part: {why}."


def _matching(found: Results, results: Results) -> Iterator[str]:
    yield (
        "The slowest of several judgements in ms, each of another hostile line. `re` is Python's, on the line of "
        "4 KiB, given a second."
    )
    yield ""
    rows = []
    for each in found["patterns"]:
        if "refused" in each:
            rows.append((f"`{each['pattern']}`", "refused", "refused", each["refused"]))
            continue
        by_re = each["re_4096_s"]
        said = "not measured" if results["plan"]["quick"] else "> 1,000 ms, or not to be had in `re`"
        said = said if by_re is None else f"{by_re * 1e3:.1f} ms"
        rows.append((f"`{each['pattern']}`", _ms(each["4096"], "max_ms"), _ms(each["16384"], "max_ms"), said))
    yield from _table(("pattern", "4 KiB", "16 KiB", "`re`"), rows)


def _leases(found: Results, results: Results) -> Iterator[str]:
    rows = [(held, _both(each), _both(found["cold"][held])) for held, each in found["listed"].items()]
    yield from _table(("reservations held", "listed by a daemon", "listed by one who never saw them"), rows)
    yield ""
    freed = found["freed"]
    yield (
        f"From SIGKILL of the holder until its reservation is listed no more: {_ms(freed)} ms, at most "
        f"{_ms(freed, 'max_ms')} ms of {freed['n']} kills."
    )


def _stalling(found: Results, results: Results) -> Iterator[str]:
    yield (
        f"A process that is loaded as a service holds its memory map by `{found['way']}`, for {_ms(found['held'])} ms "
        "each time; meanwhile its command line can't be read. Decisions go on one after the other."
    )
    yield ""
    rows = [
        ("a decision without it", found["without"]),
        ("a decision beside it", found["beside"]),
        ("the slowest decision of each stall, beyond the usual", found["delay"]),
    ]
    yield from _table(
        ("", "median", "p99", "worst"), [(n, _ms(f), _ms(f, "p99_ms"), _ms(f, "max_ms")) for n, f in rows]
    )
    yield ""
    yield f"Not charged in {found['dropped']} of {found['decisions']} decisions."


def _changing(found: Results, results: Results) -> Iterator[str]:
    rows = [
        (name, f"{each['right']} of {each['of']}" if "of" in each else f"not tried: {each['skipped']}")
        for name, each in found["ways"].items()
    ]
    yield from _table(("between two looks", "right on the next look"), rows)


def _governing(found: Results, results: Results) -> Iterator[str]:
    yield (
        "`try_allocate` and `release` by turns, on one governor with its pressure watched, by so many threads at once; "
        "all of them together, median of the rounds: by the clock, and by the time that a processor worked for them."
    )
    yield ""
    one = float(found["pairs"]["1"]["per_s"])
    rows = [
        (threads, f"{each['per_s']:,}", f"{float(each['per_s']) / one:.2f}", f"{each['per_processor_s']:,}")
        for threads, each in found["pairs"].items()
    ]
    yield from _table(("threads", "pairs/s", "x", "pairs/s of a processor"), rows)
    yield ""
    yield "From starting Python to its end:"
    yield ""
    bare = float(found["start"]["pass"]["p50_ms"])
    yield from _table(
        ("", "median / p99", "x"),
        [(f"`python -c '{n}'`", _both(f), f"{float(f['p50_ms']) / bare:.2f}") for n, f in found["start"].items()],
    )


def _swapping(found: Results, results: Results) -> Iterator[str]:
    yield (
        f"Two models for mlx-lm of {found['megabytes']} MB each, with room for one, in one process; the files are in "
        "the page cache. A swap is: one unloaded, the other loaded, its first token. From a cancellation until the "
        f"request has ended and its cache is given back: {_both(found['stops'])} ms (median / p99 of "
        f"{found['stops']['n']})."
    )
    yield ""
    yield from _table(("", "median / p99"), [(name, _both(each)) for name, each in found["ways"].items()])
    yield ""
    yield (
        f"What was spent outside of mlx-lm, MLX and the garbage collector, which the plain way needs as well, is "
        f"{float(found['added']['load']):.1%} of that for a load and {float(found['added']['swap']):.1%} for a swap."
    )


def _estimating(found: Results, results: Results) -> Iterator[str]:
    yield (
        "What `admit estimate` says of a model, from its files alone, beside the most that a real server ever held "
        "(VmHWM) after a prompt of that length, in MB. Models of these sizes are mostly program; the budget is the "
        "estimate with its margin."
    )
    yield ""
    rows = [
        (
            each["name"],
            f"{each['tokens']:,} x {each['parallel']}",
            f"{each['took_mb']:,}",
            f"{each['estimated_mb']:,}",
            f"{each['deviation']:+.0%}",
            f"{each['budget_mb']:,}",
        )
        for each in found["servers"]
    ]
    yield from _table(("", "tokens", "took", "estimated", "deviation", "budget"), rows)
    for name, why in found["skipped"].items():
        yield f"\n{name} took no part: {why}."


SECTIONS = (
    ("Looking and deciding", "deciding", _deciding),
    ("Answering", "serving", _serving),
    ("Starting", "starting", _starting),
    ("Idle", "idling", _idling),
    ("The sentinel's rounds", "watching", _watching),
    ("Matching", "matching", _matching),
    ("Reservations", "leases", _leases),
    ("A process that stalls", "stalling", _stalling),
    ("A process that changes", "changing", _changing),
    ("Governing an app's own memory", "governing", _governing),
    ("Loading and swapping models in an app", "swapping", _swapping),
    ("Estimates beside what servers took", "estimating", _estimating),
)


def save(results: Results, page: Path) -> None:
    """Write the page."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(write(results), encoding="utf-8")
