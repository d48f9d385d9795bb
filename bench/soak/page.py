"""page: the soak's results as docs/reliability.md, and what `admit` promised and did not keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.measuring import Results
from bench.report import machine

Found = dict[str, Any]

NAMES: Final = {"kernel": "the kernel alone", "earlyoom": "earlyoom", "admit": "`admit`"}


def broken(found: Found) -> Iterator[str]:
    """What `admit` did not keep; nothing where it took no part."""
    if not found:
        return
    if "skipped" in found:
        yield f"admit took no part: {found['skipped']}"
        return
    if found["kernel_kills"] or found["killed"]:
        yield f"with admit, {found['kernel_kills']} were killed by the kernel, and {found['killed']} ended unheard"
    missing = found["started"] - found["finished"] - found["stopped"]
    if missing:
        yield f"with admit, {missing} of {found['started']} admitted did not finish"
    if found["stopped"] and not found["remedies"].get("unload"):
        yield f"with admit, {found['stopped']} were stopped, and no remedy asked for it"
    if not found["finished"]:
        yield "with admit, nothing finished"
    if not found["refused"]:
        yield "with admit, nothing was refused: nobody wanted more than there was"
    yield from (*found["without_remedy"], *found["failed"])


def summary(results: Results) -> Iterator[str]:
    """One line a course."""
    for guard, found in results["courses"].items():
        if "skipped" in found:
            yield f"{guard}: took no part: {found['skipped']}"
            continue
        yield (
            f"{guard}: {found['started']} started, {found['finished']} finished, {found['kernel_kills']} killed by the "
            f"kernel, {_by_earlyoom(found)} by earlyoom, {_refused(found)} refused"
        )


def write(results: Results) -> str:
    """The whole page."""
    courses = results["courses"]
    told = {guard: found for guard, found in courses.items() if "skipped" not in found}
    total = sum(results["jobs_mb"])
    lines = [
        "# Reliability under memory pressure",
        "",
        "Written by `scripts/memory-pressure-soak`, which does all of it anew and writes this page.",
        "",
        f"{len(results['jobs_mb'])} services of {min(results['jobs_mb'])} to {max(results['jobs_mb'])} MB want "
        f"{total} MB together, and a memory cgroup ({results['cgroups']}) of {results['limit_mb']} MB is all there is: "
        f"{total / results['limit_mb']:.1f} times too little. Each has an impatient client that starts it, waits for "
        f"its end, and {_seconds(0.3)} later starts it again, for {results['seconds'] / 60:g} minutes. A job takes its "
        f"memory within {_seconds(results['grow_s'])}, works on it for {_seconds(results['work_s'])}, and ends; what "
        "is killed on the way has worked for nothing. Nobody restarts anything but its client.",
        "",
        f"Machine: {machine()}.",
        "",
        *_table(told),
        "",
    ]
    for guard, found in courses.items():
        if "skipped" in found:
            lines += [f"{NAMES[guard]} took no part: {found['skipped']}.", ""]
    lines += [*_notes(told), *_refusals(told.get("admit"))]
    return "\n".join(lines).rstrip() + "\n"


def save(results: Results, page: Path) -> None:
    """Write the page."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(write(results), encoding="utf-8")


def _table(told: dict[str, Found]) -> Iterator[str]:
    rows = {
        "jobs started": lambda found: found["started"],
        "of these, finished": lambda found: found["finished"],
        "killed by the kernel": lambda found: found["kernel_kills"],
        "signals sent by earlyoom": _by_earlyoom,
        "unloaded, by a remedy that a client ran": lambda found: found["stopped"] if "admit" in found["guard"] else "–",
        "work thrown away, s": _thrown_away,
        "refused": lambda found: _refused(found) if found["guard"] == "admit" else "–",
        "of these, without a remedy": lambda found: len(found["without_remedy"]) if found["guard"] == "admit" else "–",
        "most that was held, MB": lambda found: "not told" if found["most_mb"] is None else found["most_mb"],
    }
    marked = {guard: {**found, "guard": guard} for guard, found in told.items()}
    yield f"| | {' | '.join(NAMES[guard] for guard in marked)} |"
    yield f"| --- |{' ---: |' * len(marked)}"
    for name, cell in rows.items():
        yield f"| {name} | {' | '.join(str(cell(found)) for found in marked.values())} |"


def _notes(told: dict[str, Found]) -> Iterator[str]:
    yield "What this is, and what it is not:"
    yield ""
    yield (
        "- Each course runs with process ids and a `/proc/meminfo` of its own, which shows the group's size as the "
        "machine's. So earlyoom and the live veto judge by the group, and earlyoom finds no process but the soak's. "
        "The pressure figures (`/proc/pressure`) stay the machine's."
    )
    if "earlyoom" in told:
        ended = told["earlyoom"]["ended_by_earlyoom"]
        yield (
            f"- earlyoom runs as Debian ships it (SIGTERM at 10 % available, SIGKILL at 5 %): it sent "
            f"{ended['SIGTERM']} SIGTERM and {ended['SIGKILL']} SIGKILL, and {told['earlyoom']['kernel_kills']} times "
            "the kernel was quicker. It keeps a machine usable, which is what it promises; it can't know which start "
            "was one too many, and so that is started again."
        )
    yield (
        "- A cgroup that is full is killed in at once. A whole machine that is full stalls first, for minutes where it "
        "swaps: the first two columns show the better of what happens there."
    )
    if "admit" in told:
        found = told["admit"]
        ran = found["remedies"]
        yield (
            f"- `admit` decides by capacity.yaml, with the live veto on: {_by_reason(found)}. Every fifth refusal, a "
            f"client ran the remedy as printed: {ran.get('wait', 0)} times it waited in the queue, and "
            f"{ran.get('unload', 0)} times, at most once in 15 s, it unloaded others. A client that asked for what was "
            f"running already was told so {found['already']} times."
        )
        yield (
            "- The budgets here are true. What lies about its budget is charged what it is measured to hold, and told "
            "of; a `hard_limit_mb` closes it."
        )
    yield ""


def _refusals(found: Found | None) -> Iterator[str]:
    if not found or not found["examples"]:
        return
    yield "One refusal of each kind, as the client saw it:"
    yield ""
    yield "```"
    yield "\n\n".join(_plain(text) for text in found["examples"].values())
    yield "```"


def _plain(text: str) -> str:
    """Without the paths of the machine that it ran on."""
    lines = [line.split(" -- ")[0] + (" -- ..." if " -- " in line else "") for line in text.splitlines()]
    return "\n".join(lines)


def _by_reason(found: Found) -> str:
    parts = [f"{many} times {reason}" for reason, many in sorted(found["refused"].items(), key=lambda each: -each[1])]
    return f"refused {', '.join(parts)}" if parts else "nothing was refused"


def _refused(found: Found) -> int:
    return sum(found["refused"].values())


def _thrown_away(found: Found) -> str:
    """Seconds that jobs had run which did not finish; with `admit`, those that a remedy unloaded."""
    return f"{found['stopped_s'] if found['guard'] == 'admit' else found['lost_s']:.0f}"


def _by_earlyoom(found: Found) -> int | str:
    ended = found["ended_by_earlyoom"]
    return "–" if ended is None else sum(ended.values())


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"
