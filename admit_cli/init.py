"""init: `admit init`: from nothing to a capacity.yaml that fits this machine and what runs on it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from admit_cli import ownyaml, render
from admit_cli.door import BadSetting
from admit_cli.tell import out, printable, tell
from admitd import capacity, changing, discovery, drafting, hostnames, memory, places, processes
from admitd.changing import Put, Taken
from admitd.core import headroom, wire
from admitd.core.terms import RAM
from admitd.discovery import Discovered, Eyes
from admitd.drafting import Entry
from admitd.processes import cputime
from admitd.processes.matching import Matcher


def init(values: dict[str, Any]) -> int:
    """Find what runs, show it, ask, write; the exit code."""
    if values["merge"]:
        return _merge(values)
    path = _new_place(values["config"])
    eyes = eyes_of_this_machine()
    found = discovery.discover(eyes)
    physical = eyes.memory.physical()
    available = eyes.memory.reading().available
    host = drafting.machine(
        hostnames.lasting(),
        physical,
        None if available is None else available.get(RAM),
        found.held,
        desktop=sys.platform == "darwin",
    )
    entries = drafting.entries(found.services, host.pool)
    text = drafting.whole(host, entries, found, time.strftime("%Y-%m-%d"))
    if not values["json"]:
        tell(f"{host.name}: {host.physical >> 20} MB, of which services share {host.pool >> 20} MB")
        _show(found, entries)
    if not _agreed(values, f"Write {render.from_home(str(path))}?"):
        return wire.FAILED
    good = changing.create(path, text, ownyaml.load)
    schema = _schema_beside(path)
    report = {"file": str(path), "schema": schema, "pool_mb": headroom.pool(good.host)[RAM] >> 20}
    return _written(values, report, found, entries, f"{path}: written, {len(good.services)} services")


def _merge(values: dict[str, Any]) -> int:
    """Add what runs and is not declared yet; what stands in the file stays, comments and all."""
    path = ownyaml.find(values["config"])
    declared = ownyaml.load(path)
    eyes = eyes_of_this_machine()
    look = eyes.table.look(Matcher(declared.services.values()))
    claimed = frozenset(each.process.id.pid for each in look.sightings if not each.mention)
    found = discovery.discover(eyes_of_this_machine(claimed))
    found = discovery.without(found, declared)
    apart = drafting.mlx_servers(declared.services.values())
    entries = drafting.entries(found.services, headroom.pool(declared.host)[RAM], apart)
    new = [each for each in entries if each.why_not is None]
    if not values["json"]:
        _show(found, entries)
    report = {"file": str(path), "schema": None, "pool_mb": headroom.pool(declared.host)[RAM] >> 20}
    if not new:
        text = f"{path}: nothing to add to its {len(declared.services)} services"
        return _written(values, report, found, entries, text)
    if not _agreed(values, f"Add {'it' if len(new) == 1 else 'them'} to {render.from_home(str(path))}?"):
        return wire.FAILED
    changing.change(path, [Put(("services", each.name), dict(each.value), each.lines) for each in new], ownyaml.load)
    return _written(values, report, found, entries, f"{path}: {', '.join(each.name for each in new)} added")


def eyes_of_this_machine(claimed: frozenset[int] = frozenset()) -> Eyes:
    """What is looked with, here."""
    home = Path(places.home(os.environ))
    table = processes.for_this_system(os.environ)
    return Eyes(table, memory.for_this_system(), cputime.for_this_system(), os.environ, home, claimed)


def _new_place(config: str | None) -> Path:
    """Where the file will be. Raises Taken where there is one that `admit` would go by."""
    home = Path(places.home(os.environ))
    try:
        there = capacity.find(config, os.environ, home)
    except capacity.NotFound as missing:
        return missing.looked[0]
    raise Taken(f"{there} is there already, and stays as it is; to add what runs and is missing: admit init --merge")


def _schema_beside(path: Path) -> str | None:
    """The schema for editors, beside the file, unless something of that name is there."""
    import json

    schema = path.with_name(drafting.SCHEMA)
    try:
        with open(schema, "x", encoding="utf-8") as new:
            new.write(json.dumps(capacity.json_schema(), indent=2) + "\n")
    except OSError:
        return None
    return str(schema)


def _show(found: Discovered, entries: list[Entry]) -> None:
    if not found.services:
        tell("nothing runs that admit knows and the file lacks")
    for each, entry in zip(found.services, entries, strict=True):
        budget = "no budget" if each.budget is None else f"{each.budget >> 20} MB"
        tell(printable(f"  {each.draft.name}: {budget} ({each.why})"))
        if each.way is not None:
            tell(
                printable(f"      {each.way.pattern}" + (f"  program: {each.way.program}" if each.way.program else ""))
            )
        tell(f"      {each.matched}")
        if each.doubt is not None:
            tell(printable(f"      {drafting.doubt(each.doubt)}"))
        if entry.why_not is not None:
            tell(f"      not declared: {entry.why_not}")
    for engine, why in found.passed_over:
        tell(printable(f"  {engine}: {why}"))
    if found.installed:
        tell(f"  installed, not running: {', '.join(found.installed)}")


def _agreed(values: dict[str, Any], question: str) -> bool:
    if values["yes"]:
        return True
    if not sys.stdin.isatty():
        raise BadSetting("nothing was written: it is agreed to on a terminal, or with --yes")
    tell(f"{question} [Y/n] ", end="")
    answer = sys.stdin.readline()
    if answer.strip().lower() in ("", "y", "yes") and answer:
        return True
    tell("admit: nothing was written")
    return False


def _written(values: dict[str, Any], report: dict[str, Any], found: Discovered, entries: list[Entry], text: str) -> int:
    if values["json"]:
        services = [
            {
                "name": each.draft.name,
                "engine": each.draft.engine,
                "pids": list(each.draft.pids),
                "ram_budget_mb": None if each.budget is None else -(-each.budget >> 20),
                "budget_because": each.why,
                "process_pattern": None if each.way is None else each.way.pattern,
                "program": None if each.way is None else each.way.program,
                "matched": each.matched,
                "doubt": each.doubt,
                "declared": entry.why_not is None,
                "why_not": entry.why_not,
            }
            for each, entry in zip(found.services, entries, strict=True)
        ]
        passed = [{"engine": engine, "why": why} for engine, why in found.passed_over]
        render.print_json({**report, "services": services, "passed_over": passed, "installed": list(found.installed)})
    else:
        out(text)
        tell("next: admit doctor")
    return wire.OK
