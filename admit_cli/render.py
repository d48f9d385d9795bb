"""render: what people read. Answers of the application in, text out; colours only on a terminal, and not under
NO_COLOR."""

from __future__ import annotations

import os
import sys

from admit_cli import states
from admit_cli.tell import out, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from admitd.unloading import Outcome

WIDTH = 79
PIDS_MAX = 4
_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def print_json(body: Any) -> None:
    """JSON on stdout, for programs."""
    import json

    out(json.dumps(body, indent=2, ensure_ascii=not _is_utf8(sys.stdout.encoding)))


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "") == "utf8"


def terminal_width(fd: int = 2) -> int:
    """Columns of the terminal that stderr is, or another descriptor."""
    try:
        return os.get_terminal_size(fd).columns or WIDTH + 1
    except OSError:
        return WIDTH + 1


def folded(text: str) -> str:
    """A sentence, folded between words where a terminal would break it within one. Commands are never folded."""
    if not sys.stderr.isatty():
        return text
    import textwrap

    return textwrap.fill(text, terminal_width() - 1, subsequent_indent="  ", break_long_words=False)


def from_home(path: str) -> str:
    """A path as people write it."""
    home = os.environ.get("HOME", "").rstrip("/")
    return f"~{path[len(home) :]}" if home and path.startswith(f"{home}/") else path


def on_screen(text: str) -> str:
    """`text` in place of what the terminal shows, without a flicker, and no longer than the terminal is high."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        columns, rows = 0, 0
    columns, rows = columns or WIDTH + 1, rows or 24
    lines = text.split("\n")
    heights = [-(-max(1, _cells(line)) // columns) for line in lines]  # a line that is too wide goes on below
    if 2 < rows <= sum(heights):
        kept = 0
        while sum(heights[: kept + 1]) <= rows - 2:
            kept += 1
        lines = [*lines[:kept], f"... and {len(lines) - kept} lines more: admit status"[: columns - 1]]
    return "\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J"


def _cells(line: str) -> int:
    """How many columns a terminal needs for it: colours need none, some letters two."""
    import re

    shown = re.sub(r"\x1b\[[0-9;]*m", "", line)
    if shown.isascii():
        return len(shown)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in shown)


def again(config: str | None, *words: str) -> str:
    """An `admit` command line that works when pasted, going by the file that the user named for this one."""
    import shlex

    named = ["--config", os.path.abspath(os.path.expanduser(config))] if config else []
    return shlex.join(["admit", *named, *words])


def bar(share: float, width: int) -> str:
    """A bar of `width` characters; what goes beyond its end is shown by a >."""
    filled = round(max(0.0, min(1.0, share)) * width)
    return "[" + "#" * filled + "." * (width - filled) + (">" if share > 1 else "]")


def coloured(text: str, colour: str) -> str:
    """`text`, in colour where stdout shows colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def status(ledger: dict[str, Any], config: str | None = None) -> str:
    """One screen: the pool, every service, who holds and who waits, pressure, warnings."""
    lines = [
        f"{coloured(ledger['host'], 'bold')}: " + in_use(ledger),
        "[" + "".join(run for _, run in pool_runs(ledger, WIDTH - 2)) + pool_end(ledger),
        f"physical {ledger['ram_physical_mb']} MB = pool {ledger['pool_mb']} + reserved {ledger['ram_reserved_mb']} "
        f"+ safety {ledger['ram_safety_mb']}",
        pressure_line(ledger["pressure"], ledger["live_veto"]),
        "",
        *_services(ledger["services"]),
        *notes(ledger, config),
    ]
    return "\n".join(lines)


def in_use(ledger: dict[str, Any]) -> str:
    """How much of the pool is charged, and how much is left."""
    pool, charged, free = ledger["pool_mb"], ledger["charged_mb"], ledger["free_mb"]
    left = coloured(f"{free} MB free", "green") if free >= 0 else coloured(f"OVER-COMMITTED by {-free} MB", "red")
    return f"{charged} of {pool} MB charged, {left}"


def notes(ledger: dict[str, Any], config: str | None = None) -> list[str]:
    """Who does not answer, what is charged beside the services, who holds, who waits, and what is odd: a line each."""
    lines = []
    for service in ledger["services"]:
        if found := states.trouble(service):
            said = printable(f"{found[0]}: {again(config, *found[1])}")
            lines.append(coloured(said, states.COLOURS.get(states.word(service), "yellow")))
    lines += [f"{each['label']}: {each['charged_mb']} MB charged; {each['why']}" for each in ledger["undeclared"]]
    for held in ledger["reservations"]:
        who = f"process {held['holder_pid']}" if held["holder_pid"] else "no named holder"
        lines.append(f"reserved: {held['service']}, {held['budget_mb']} MB, for {who} ({_left(held['expires_at'])})")
    for place, waiter in enumerate(ledger["waiting"], 1):
        lines.append(f"waiting, position {place}: {waiter['service']} (priority {waiter['priority']})")
    return lines + [coloured(f"warning: {printable(warning)}", "yellow") for warning in ledger["warnings"]]


def pool_runs(ledger: dict[str, Any], width: int) -> list[tuple[str, str]]:
    """The pool as `width` characters, in runs: who is charged, and his part of them; the last is what is free.

    One letter a service, dots for what is free; never less than one letter for who is charged anything. Where two
    neighbours begin with the same letter, the second is shown in capitals."""
    whole = max(1, ledger["pool_mb"], ledger["charged_mb"])
    charged = [(s["name"], s["name"][0].lower(), s["charged_mb"]) for s in ledger["services"] if s["charged_mb"]]
    charged += [(each["label"], "?", each["charged_mb"]) for each in ledger["undeclared"] if each["charged_mb"]]
    cells = [max(1, round(charge / whole * width)) for _, _, charge in charged]
    while sum(cells) > width and max(cells) > 1:
        cells[cells.index(max(cells))] -= 1
    runs: list[tuple[str, str]] = []
    left, before = width, ""
    for (name, letter, _), count in zip(charged, cells, strict=True):
        before = letter.upper() if before == letter else letter
        runs.append((name, before * min(count, left)))
        left -= len(runs[-1][1])
    return [*runs, ("", "." * left)]


def pool_end(ledger: dict[str, Any]) -> str:
    """What closes the bar: a > where more is charged than there is."""
    return ">" if ledger["charged_mb"] > ledger["pool_mb"] else "]"


def pressure_line(pressure: dict[str, Any], live_veto: bool) -> str:
    """How bad it is for the whole machine, by the system's own word."""
    level = pressure["level"] or "unknown"
    colour = {"normal": "green", "warn": "yellow", "critical": "red"}.get(level, "dim")
    veto = "" if live_veto else "\nlive_veto: off"
    return f"pressure: {coloured(level, colour)} ({pressure['why']}){veto}"


def _services(services: list[dict[str, Any]]) -> list[str]:
    if not services:
        return ["no services are declared"]
    # What it does is worth more than its second process, and neither is worth a line that wraps.
    ways = [(True, PIDS_MAX), (True, 1)] if any(service.get("condition") for service in services) else []
    for active, most in [*ways, (False, PIDS_MAX)]:
        lines = _rows(services, active, most)
        if max(map(_cells, lines)) <= terminal_width(1):
            break
    return lines


def _rows(services: list[dict[str, Any]], active: bool, most: int) -> list[str]:
    """A head, and a line for each service; with what it does where `active`, and `most` of its processes."""
    width = max(7, *(len(service["name"]) for service in services))
    doing = {service["name"]: states.activity(service) for service in services}
    wide = max(8, *map(len, doing.values()))
    head = f"{'ACTIVITY':{wide}}  " if active else ""
    head = f"{'SERVICE':{width}}  {'STATE':11}  {head}{'BUDGET':>7}  {'HOLDS':>7}  {'CHARGED':>7}  PRIO  PIDS"
    lines = [coloured(head, "dim")]
    for service in services:
        word = states.word(service)
        does = f"{doing[service['name']]:{wide}}  " if active else ""
        holds = "-" if service["measured_mb"] is None else str(service["measured_mb"])
        lines.append(
            f"{service['name']:{width}}  {coloured(f'{word:11}', states.COLOURS.get(word, 'dim'))}  {does}"
            f"{service['ram_budget_mb']:>7}  {holds:>7}  {service['charged_mb']:>7}  {service['priority']:>4}  "
            f"{seen_as(service, most)}".rstrip()
        )
    return lines


def seen_as(service: dict[str, Any], most: int = PIDS_MAX) -> str:
    """Its processes, or what else makes it count as loaded; and whether it is pinned."""
    pids = " ".join(map(str, service["pids"][:most])) + (" ..." if len(service["pids"]) > most else "")
    if service["matched_by"] == "mention":
        pids = f"only mentioned by {' '.join(map(str, service['mentioned_by'][:3]))}"
    elif service["matched_by"] == "loaded_check_cmd":
        pids = "its check says so"
    return f"{pids} (pinned)" if service["pinned"] else pids


def _left(expires_at: float) -> str:
    import time

    return f"{max(0, round(expires_at - time.time()))} s left"


def refusal(refused: dict[str, Any]) -> str:
    """Not this one, not now: why, who stands in the way, the command that makes room."""
    lines = [folded(f"admit: {refused['service']} is refused ({refused['reason']}): {refused['detail']}")]
    width = max((len(blocker["service"]) for blocker in refused["blockers"]), default=0)
    for blocker in refused["blockers"][:8]:
        lines.append(f"  in the way: {blocker['service']:{width}}  {blocker['charged_mb']} MB  {blocker['why']}")
    if len(refused["blockers"]) > 8:
        lines.append(f"  ... and {len(refused['blockers']) - 8} more: admit status")
    if refused.get("queue_position"):
        lines.append(f"  it waited in the queue, to the end at position {refused['queue_position']}")
    if refused["remedy"]:
        lines.append(
            f"  make room:  {refused['remedy']}" if refused["victims"] else f"  try:        {refused['remedy']}"
        )
    return "\n".join(lines)


def plan_to_agree(refused: dict[str, Any]) -> str:
    """What --evict is about to unload."""
    charged = {blocker["service"]: blocker["charged_mb"] for blocker in refused["blockers"]}
    lines = [folded(refused["detail"]), "To make room, these would be unloaded, in this order:"]
    lines += [f"  {name}  {charged.get(name, '?')} MB" for name in refused["victims"]]
    return "\n".join(lines)


def plan(answer: dict[str, Any]) -> str:
    """What would have to go."""
    lines = [folded(answer["detail"])]
    if answer["victims"]:
        lines.append(f"would have to be unloaded: {', '.join(answer['victims'])}")
    if answer["remedy"]:
        lines.append(f"  {answer['remedy']}")
    return "\n".join(lines)


def oddly_loaded(verdict: dict[str, Any]) -> str:
    """It counts as loaded, and one cannot simply go on."""
    name = verdict["service"]
    if verdict["mention_only"]:
        return (
            f"admit: {name} counts as loaded, so nothing was started; but only because a process mentions it in an "
            f"argument.\n  See which: admit explain {name}. If that is not the service, end it; if it is, declare its "
            "program, as that says."
        )
    if verdict["state"] == "suspended":
        pids = " ".join(map(str, verdict.get("pids", ())))
        said = f"admit: {name} is stopped (state T), so nothing was started: it holds its memory, and answers nobody"
        wakes = f"wake it:    kill -CONT {pids}" if pids else f"see which:  admit explain {name}"
        return f"{said} until it is continued.\n  {wakes}"
    odd = {"half_loaded": f"its process is there, but its check says it is not loaded: admit explain {name}"}
    return f"admit: {name} is loaded already, but {odd.get(verdict['state'], verdict['state'])}"


def loaded(result: dict[str, Any], budget_mb: int) -> str:
    """A load that went well."""
    held = f", holds {result['measured_mb']} of {budget_mb} MB" if result["measured_mb"] is not None else ""
    pids = f" (pid {', '.join(map(str, result['pids']))})" if result["pids"] else ""
    return f"{result['service']} is loaded{pids} after {result['took_s']:.1f} s{held}"


def unload_outcome(name: str, outcome: Outcome, config: str | None) -> str:
    """How an unload ended, in a sentence."""
    from admitd import unloading
    from admitd.core.terms import RAM
    from admitd.core.units import free_to_mb

    if isinstance(outcome, unloading.Unloaded):
        if not outcome.was_loaded:
            return f"{name} is not loaded" + (f": {outcome.note}" if outcome.note else "")
        more = free_to_mb((outcome.back or {}).get(RAM, 0))
        back = f"; {more} MB more are available" if more > 0 and not outcome.note else ""
        return f"{name} is unloaded after {outcome.took_s:.1f} s{back}" + (f". {outcome.note}" if outcome.note else "")
    if isinstance(outcome, unloading.UnloadTimedOut):
        if not outcome.pids:
            return outcome.why
        pids = ", ".join(map(str, outcome.pids))
        if outcome.keeper is not None:
            stop = outcome.keeper.stop
            ends = f"this stops it for good: {stop}" if stop else f"see what it is: {again(config, 'explain', name)}"
            return f"{outcome.why} (pid {pids}); {ends}"
        return f"{outcome.why} (pid {pids}); end it for certain: {again(config, 'unload', name, '--kill')}"
    return f"{name} could not be unloaded: {outcome.why}"


def unload_result(name: str, outcome: Outcome, text: str) -> dict[str, Any]:
    """How an unload ended, as JSON."""
    from admitd import unloading
    from admitd.acting import unloaded

    if isinstance(outcome, unloading.Unloaded):
        return unloaded(name, outcome)
    word = "timed_out" if isinstance(outcome, unloading.UnloadTimedOut) else "failed"
    return {"outcome": word, "service": name, "detail": text}


def explained(found: dict[str, Any], config: str | None) -> str:
    """Which processes match, and why."""
    lines = [f"{found['service']}: {found['state']}  ({found['processes']} processes looked at)"]
    if found["process_pattern"] is not None:
        lines.append(f"process_pattern: {found['process_pattern']}")
    if found["program"] is not None:
        lines.append(f"program: {found['program']}")
    for match in found["matches"]:
        what = "mentions it in an argument: charged, never signalled" if match["mention"] else "is it"
        stopped = f", stopped (state T); to continue it: kill -CONT {match['pid']}" if match["stopped"] else ""
        command = match["command"] if match["command"] is not None else f"(a process of uid {match['uid']})"
        lines.append(f"  {match['pid']}  {match['program']}: {what}{stopped}\n      {command}")
    for each in found["passed_over"]:
        lines.append(f"  {each['pid']}  {each['program']}: matches, not counted: {each['why']}")
    if found["process_pattern"] is not None and not found["matches"]:
        lines.append("  no live process counts as it")
    if found["program"] is None and found["matches"] and all(match["mention"] for match in found["matches"]):
        for program in dict.fromkeys(match["program"] for match in found["matches"]):
            declares = again(config, "service", "edit", found["service"], f"program={program}")
            lines.append(f"If {program} really is the service, declare it:   {printable(declares)}")
    if found["check"] is not None:
        answer = {True: "loaded", False: "not loaded", None: "could not be run"}[found["check"]["loaded"]]
        lines.append(f"loaded_check_cmd: {answer}; {printable(found['check']['said'])}")
    return "\n".join(lines)
