"""lines: what the lines around the table say, and in which colour. What people read elsewhere reads the same here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from admit_cli import render, states
from admit_cli.monitor.rows import RIGHT
from admit_cli.monitor.source import Seen
from admit_cli.tell import printable
from admitd.core.events import Entry, Severity

STALE_S: Final = 6.0
"""A ledger is looked at every two seconds; one that is older than this is said to be so."""
_SEVERITIES: Final = {Severity.WARNING: "yellow", Severity.CRITICAL: "red"}
_FAINT: Final = "bright_black"


def head(ledger: Mapping[str, Any], seen: Seen, age_s: float, width: int) -> Text:
    """How much is charged and free; at the right, who says so, and since when it is so where that is long ago."""
    left = Text.from_ansi(f"{ledger['host']}: {render.in_use(dict(ledger))}")
    stale = f", seen {age_s:.0f} s ago" if age_s >= STALE_S else ""
    if seen.problem:
        right = Text(f"no answer{stale}", "red")
    elif seen.why_inside:
        right = Text(f"no daemon{stale}", "yellow")
    else:
        right = Text(f"daemon {ledger.get('version', '')}".rstrip() + stale, "yellow" if stale else "green")
    return Text.assemble(left, " " * max(2, width - left.cell_len - right.cell_len), right)


def cell(key: str, text: str, style: str = "") -> Text:
    """What stands in a column: numbers to the right."""
    return Text(text, style, justify="right" if key in RIGHT else "left")


def colour(word: str) -> str:
    """Of what a service is, in a word."""
    found = states.COLOURS.get(word, "dim")
    return _FAINT if found == "dim" else found


def bar(ledger: Mapping[str, Any], width: int) -> Text:
    """The pool."""
    words = {service["name"]: states.word(service) for service in ledger["services"]}
    drawn = Text("[")
    for name, run in render.pool_runs(dict(ledger), max(10, width - 2)):
        drawn.append(run, _charged(words.get(name)) if name else _FAINT)
    end = render.pool_end(dict(ledger))
    return drawn.append(end, "red" if end == ">" else "")


def _charged(word: str | None) -> str:
    """The colour of what is charged: of what is not declared, and of what is pinned and down, it is yellow."""
    return "yellow" if word in (None, "stopped") else colour(word)


def pressure(ledger: Mapping[str, Any], width: int) -> Text:
    """How bad it is for the whole machine."""
    lines = Text.from_ansi(render.pressure_line(ledger["pressure"], ledger["live_veto"])).split("\n")
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def banner(seen: Seen, good_at: float, lost_at: float | None) -> Text:
    """Who does not answer, since when, and what that means; empty while all is well."""
    since = "" if lost_at is None else f" since {_clock(lost_at)}"
    if seen.problem:
        return Text(f"Nothing can be seen{since}: {seen.problem}\nBelow is what was seen at {_clock(good_at)}.")
    if seen.why_inside:
        gone = f"The daemon is gone{since}" if lost_at is not None else "There is no daemon"
        why = "" if seen.why_inside == "no daemon listens" else f" ({seen.why_inside})"
        return Text(
            f"{gone}{why}: this process looks and decides by itself, by the same rules.\n"
            "Nobody wakes or recovers anything meanwhile. Next: admit daemon status"
        )
    return Text()


def notes(ledger: Mapping[str, Any], under_way: Mapping[str, float], waits: str = "") -> Text:
    """The question that `waits` for whoever types; commands that run, and for how many seconds; what is charged beside
    the services, who holds, who waits, what is odd."""
    asked = [f"{waits} Enter or Esc leaves the filter, and shows this question"] if waits else []
    running = [f"{words}: {so_far_s:.0f} s so far" for words, so_far_s in under_way.items()]
    return Text.from_ansi("\n".join([*asked, *running, *render.notes(dict(ledger))]))


def event(entry: Entry, width: int) -> Text:
    """One event, on one line."""
    line = Text(f"{_clock(entry.at)}  ", _FAINT)
    line.append(f"{entry.event.kind:15}  ", _SEVERITIES.get(entry.event.severity, ""))
    line.append(printable(entry.event.text))
    line.truncate(width, overflow="ellipsis")
    return line


def _clock(at: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return "--:--:--"
