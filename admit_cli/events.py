"""events: `admit events`: what was done and found, from the journal; with --follow what comes, whoever writes it.

The journal is read as it is, with a daemon or without one: it is the same file for both.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admit_cli.tell import tell
from admitd import places, trail
from admitd.core import wire
from admitd.core.events import FORMAT, Entry, Severity, entry_json
from admitd.core.units import parse_duration
from admitd.journal import NAME

LAST: Final = 100
MOST: Final = 1_000
LOOK_EVERY_S: Final = 0.5
_DAY_S: Final = 86_400.0
_COLOURS: Final = {Severity.WARNING: "yellow", Severity.CRITICAL: "red"}


def events(values: dict[str, Any]) -> int:
    """Print what was written down; with --follow until Ctrl-C."""
    path = Path(places.user_folder(os.environ), NAME)
    service, as_json = values["service"], values["json"]
    since = values["since"]
    tail = trail.Tail(path) if values["follow"] else None
    limit = LAST if since is None else MOST
    entries = trail.read(path, since, service, limit + 1)
    is_cut, entries = since is not None and len(entries) > limit, entries[-limit:]
    newest = max((entry.format for entry in entries), default=FORMAT)
    if newest > FORMAT:
        tell(
            f"admit: a newer admit wrote some of these (version {newest} of the journal, and this one knows {FORMAT}): "
            "what is new in them is not shown"
        )
    if is_cut:
        more = (
            f"admit: these are the last {MOST} since then, and there are older ones: narrow it with --service, or see"
        )
        tell(f"{more} {render.from_home(str(path))}")
    try:
        if tail is None:
            _show_all(entries, as_json)
        else:
            _show_each(entries, as_json)
            _follow(tail, max((entry.id for entry in entries), default=0), service, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has gone, as `| head` does: not our fault, and nothing to say to anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return wire.OK


def parse_since(text: str, now: float) -> float:
    """Seconds since 1970 from "90s", "1h", "7d", or a date and time such as 2026-11-21T10:00. Raises ValueError."""
    if text.endswith("d") and text[:-1].isdigit() and len(text) < 6:
        return now - int(text[:-1]) * _DAY_S
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time; write for example 1h, 7d or 2026-11-21T10:00") from None


def line(entry: Entry) -> str:
    """One entry for people: when, what, and the next command."""
    event = entry.event
    when = _shown_time(entry.at)
    colour = _COLOURS.get(event.severity)
    word = f"{event.kind:15}"
    text = f"{when}  {render.coloured(word, colour) if colour else word}  {_plain(event.text)}"
    return text + (f"\n{'':19}  {'':15}  next: {_plain(event.next)}" if event.next else "")


def _follow(tail: trail.Tail, last: int, service: str | None, as_json: bool) -> None:
    while True:
        new = [entry for entry in tail.more() if entry.id > last and service in (None, entry.event.service)]
        last = 0
        _show_each(new, as_json)
        time.sleep(LOOK_EVERY_S)


def _show_all(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        render.print_json({"events": [entry_json(entry) for entry in entries]})
    elif entries:
        _show_each(entries, as_json)
    else:
        print("admit: nothing of that kind was written down yet", file=sys.stderr)


def _show_each(entries: list[Entry], as_json: bool) -> None:
    for entry in entries:
        print(json.dumps(entry_json(entry)) if as_json else line(entry))
    sys.stdout.flush()


def _shown_time(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return f"{at:19.0f}"


def _plain(text: str) -> str:
    """Without what would move the cursor or colour the terminal."""
    return "".join(each if each.isprintable() else " " for each in text)
