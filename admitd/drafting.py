"""drafting: what was discovered, written as a capacity.yaml that a person can read: text, and nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from admitd import engines, yamlwrite
from admitd.core import sizing
from admitd.core.terms import NAME, Service
from admitd.core.units import MIB, to_mb
from admitd.discovery import Discovered, Sized

WIDTH: Final = 110
SCHEMA: Final = "capacity.schema.json"
_HEAD: Final = """\
# yaml-language-server: $schema=./{schema}
#
# Which services this machine may load, and how much memory each of them needs.
#
# Written by `admit init` on {day}, from what ran then. Read it once, above all the budgets: what a service never did
# while it was looked at, nobody could measure. `admit measure NAME --for 10m --write` watches one at work.
#
# Nobody but you may write to this file (chmod go-w), because its commands are run as you. `admit config check` says
# what is wrong in it, `admit doctor` what does not fit this machine; a running daemon picks up changes by itself.
# MB means MiB throughout.

version: 1

hosts:
  {host}:
    # The pool that services share is physical - reserved - safety: here {physical} - {reserved} - {safety} = {pool} MB.
    {physical_line}# what the system says
    {reserved_line}# for the system and your own programs{others}
    {safety_line}# a floor that is never admitted into

"""
_TAIL: Final = """\

# The thread that keeps looking: it probes what is loaded, loads a hung service again, and says what it does.
sentinel:
  safelist: []                # what must keep running: names of services, or patterns of command lines
  probe_interval_s: 60        # how often each loaded service is probed
  on_pressure: tell           # critical pressure that lasts: tell which service to unload; evict: unload it

# on: what the system says of its memory right now may refuse what the budgets would allow. off: budgets alone decide.
live_veto: on
"""
_NONE: Final = """\
# Nothing that admit knows was running. Start your model servers as you always do, then run `admit init --merge`: it
# adds what it finds. Or declare one by hand: admit service add NAME ram_budget_mb=14000 process_pattern='...'
services: {}
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The numbers of a host, in bytes. `others`: what everything but the services held; None where nobody knows."""

    name: str
    physical: int
    reserved: int
    safety: int
    others: int | None = None

    @property
    def pool(self) -> int:
        return self.physical - self.reserved - self.safety


@dataclass(frozen=True, slots=True)
class Entry:
    """One service of the file: its value, and its lines, which begin with a comment. `why_not`: it is written as a
    comment only, so that the file stays good."""

    name: str
    value: Mapping[str, Any]
    lines: tuple[str, ...]
    why_not: str | None = None


def machine(hostname: str, physical: int, available: int | None, held: int, *, desktop: bool) -> Machine:
    """The numbers for this machine. `held`: bytes that the services hold now."""
    others = None if available is None else max(0, physical - available - held)
    physical = physical // MIB * MIB
    reserved, safety = sizing.kept(physical, others, desktop=desktop)
    short = hostname.partition(".")[0]
    return Machine(short if NAME.match(short) else "this-machine", physical, reserved, safety, others)


def entries(found: Sequence[Sized], pool: int, apart_from: Sequence[str] = ()) -> list[Entry]:
    """The services, ready to be written. `apart_from`: services declared already that are MLX servers too."""
    fits = [each for each in found if each.budget is not None and to_mb(each.budget) * MIB <= pool]
    mlx = [each.draft.name for each in fits if each.draft.engine == "mlx-lm"]
    out = []
    for each in found:
        name = each.draft.name
        # Said once, it holds both ways: each names those before it.
        others = [*apart_from, *mlx[: mlx.index(name)]] if name in mlx else []
        out.append(_entry(each, others, None if each in fits else _why_not(each, pool)))
    return out


def mlx_servers(declared: Iterable[Service]) -> list[str]:
    """The services of a file that are MLX servers, by their patterns."""
    return [each.name for each in declared if "mlx_lm" in (each.process_pattern or "")]


def whole(host: Machine, services: Sequence[Entry], found: Discovered, day: str) -> str:
    """The text of a new file."""
    others = "" if host.others is None else f"; they held {to_mb(host.others)} MB"
    numbers = {key: to_mb(getattr(host, key)) for key in ("physical", "reserved", "safety")}
    pool = numbers["physical"] - numbers["reserved"] - numbers["safety"]
    rows = {f"{key}_line": f"ram_{key}_mb: {amount}".ljust(28) for key, amount in numbers.items()}
    text = _HEAD.format(schema=SCHEMA, day=day, host=host.name, pool=pool, others=others, **numbers, **rows)
    blocks = ["\n".join("  " + line if line else "" for line in each.lines) for each in services]
    if any(each.why_not is None for each in services):
        text += "services:\n" + "\n\n".join(blocks) + "\n"
    else:
        text += _NONE + "".join(f"\n{block}\n" for block in blocks)
    remarks = [f"{engine}: {why}" for engine, why in found.passed_over]
    if found.installed:
        remarks.append(f"Installed and not running: {', '.join(found.installed)}. Start one, then: admit init --merge")
    if remarks:
        text += "\n" + "\n".join(line for remark in remarks for line in _comment(remark)) + "\n"
    return text + _TAIL


def doubt(said: str) -> str:
    """What is to be said of a check that does not say what its engine says."""
    return (
        f"Not to be trusted yet: it is loaded, and its loaded_check_cmd does not say so ({said}). "
        "Until it does, nothing is charged for it: mend it."
    )


def _why_not(each: Sized, pool: int) -> str:
    if each.budget is None:
        return "nothing tells what it will hold; write its ram_budget_mb, and take the # out"
    return f"its budget of {to_mb(each.budget)} MB is more than the whole pool of {pool >> 20} MB"


def _entry(each: Sized, others: Sequence[str], why_not: str | None) -> Entry:
    draft = each.draft
    budget_mb = to_mb(each.budget) if each.budget is not None else 0
    keys = dict(draft.keys)
    value: dict[str, Any] = {"ram_budget_mb": budget_mb, "priority": keys.pop("priority", engines.PRIORITY)}
    lines = [f"{draft.name}:"]
    lines += _inside(f"{each.why[:1].upper()}{each.why[1:]}; the largest of these, with a margin where it is no fact.")
    lines += yamlwrite.lines("ram_budget_mb", budget_mb, 2)
    lines.append(f"{yamlwrite.lines('priority', value['priority'], 2)[0]}   # higher wins")
    if others:
        value["exclusive_with"] = list(others)
        lines += _inside("Two MLX servers each take most of the memory that Metal may wire. Measured otherwise? Out.")
        lines += yamlwrite.lines("exclusive_with", value["exclusive_with"], 2)
    if each.way is not None:
        lines += _inside(f"{each.matched[:1].upper()}{each.matched[1:]} (when this was written).")
        value["process_pattern"] = each.way.pattern
        lines += yamlwrite.lines("process_pattern", each.way.pattern, 2)
        if each.way.program is not None:
            value["program"] = each.way.program
            lines += yamlwrite.lines("program", each.way.program, 2)
    for key, content in keys.items():
        value[key] = content
        if key == "loaded_check_cmd" and each.doubt is not None:
            lines += _inside(doubt(each.doubt))
        lines += yamlwrite.lines(key, content, 2)
    if "load_cmd" not in value:
        lines += _inside("No load_cmd: it belongs to another user, or its command line is too long. admit counts it.")
    head = f"{draft.title}. " + " ".join(draft.notes)
    comment = _comment(head.strip())
    if why_not is not None:
        return Entry(draft.name, {}, (*comment, *_comment(f"Not declared: {why_not}"), *_out(lines)), why_not)
    return Entry(draft.name, value, (*comment, *lines))


def _out(lines: Sequence[str]) -> list[str]:
    return [f"# {line}" for line in lines]


def _inside(text: str) -> list[str]:
    return ["  " + line for line in _comment(text)]


def _comment(text: str) -> list[str]:
    """A remark, folded. What others wrote (names of models) may hold anything but a line's end."""
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
