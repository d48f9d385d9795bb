"""measure: `admit measure`: watches a service, or a command that it starts, and says what budget its peak asks for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from admit_cli import ownyaml, render
from admit_cli.door import BadSetting, Door, NoService
from admitd import actuator, budgetfile, measuring, memory
from admitd.core import sizing, wire
from admitd.core.terms import RAM, Service
from admitd.core.units import to_mb
from admitd.measuring import LOOK_EVERY_S, Measured, Measuring, in_words
from admitd.memory import gpus
from admitd.processes import cputime, ps

FOR_S: Final = 60.0
END_S: Final = 10.0


def measure(values: dict[str, Any]) -> int:
    """Watch, report, and with --write put the budget into capacity.yaml; the exit code."""
    name, command = values["name"], values["cmd"]
    if bool(name) == bool(command):
        raise BadSetting("name one service, or a command after --: admit measure NAME, admit measure -- CMD...")
    if values["write"] and not name:
        raise BadSetting("--write needs the name of a service: admit measure NAME --write")
    return _service(name, values) if name else _command(command, values)


def _service(name: str, values: dict[str, Any]) -> int:
    gate = Door(values["config"]).inside().house.gate
    declared = gate.capacity()
    service = declared.services.get(name)
    if service is None:
        raise NoService(f"{declared.path} declares no service {name!r}.")
    over = threading.Event()
    watching = _measuring(lambda: measuring.processes_of(gate, name))
    _watch(watching, FOR_S if values["for_s"] is None else values["for_s"], over.wait, values["json"])
    if not watching.seen.looks:
        print(f"admit: {_nothing(watching.seen, name)}", file=sys.stderr)
        return wire.FAILED
    budget_mb = to_mb(sizing.budget(watching.seen.most))
    written = None
    declared_mb = to_mb(service.budget.get(RAM, 0))
    if values["write"] and watching.seen.was_idle and budget_mb < declared_mb:
        _report(watching.seen, values["json"], name, service)
        lower = f"its budget stays {declared_mb} MB, since an idle service says nothing of what it needs at work"
        by_hand = render.again(values["config"], "service", "edit", name, f"ram_budget_mb={budget_mb}")
        print(f"admit: {lower}; use it, and measure again; or, if you know better: {by_hand}", file=sys.stderr)
        return wire.FAILED
    if values["write"]:
        path = Path(declared.path)
        try:
            written = f"{path}:{budgetfile.write(path, name, budget_mb, ownyaml.load)}"
        except budgetfile.ByHand as problem:
            _report(watching.seen, values["json"], name, service)
            print(f"admit: {problem}", file=sys.stderr)
            return wire.FAILED
    _report(watching.seen, values["json"], name, service, written)
    return wire.OK


def _command(command: list[str], values: dict[str, Any]) -> int:
    over = False
    process = actuator.start_foreground(command, sys.stderr if values["json"] else None)

    def ended(timeout_s: float) -> bool:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    watching = _measuring(lambda: () if (found := ps.identify(process.pid)) is None else (found,))
    try:
        over = _watch(watching, values["for_s"], ended, values["json"])
    finally:
        if not over:
            actuator.end_child(process, watching.find(time.monotonic()), END_S)
    if not watching.seen.looks:
        print(f"admit: {command[0]} ended before it could be looked at", file=sys.stderr)
        return wire.FAILED
    _report(watching.seen, values["json"], command[0])
    if process.returncode == 0 or not over:
        return wire.OK
    print(f"admit: {command[0]} ended with {actuator.exit_text(process.returncode)}", file=sys.stderr)
    return wire.FAILED


def _measuring(who: measuring.Who) -> Measuring:
    return Measuring(who, memory.for_this_system(), cputime.for_this_system(), gpus.of_this_machine())


def _watch(watching: Measuring, for_s: float | None, wait: Callable[[float], bool], as_json: bool) -> bool:
    """Look until the time is over, `wait` says that there is no more to see (True), or Ctrl-C, which ends the watch
    and nothing else."""
    began = time.monotonic()
    live = sys.stderr.isatty() and not as_json
    try:
        while True:
            now = time.monotonic()
            held = watching.look(now)
            if live:
                shown = f"{in_words(held)} now, {in_words(watching.seen.peak)} at most" if held else "not there yet"
                print(f"\r\x1b[K{now - began:4.0f} s  {shown}", end="", file=sys.stderr, flush=True)
            left = LOOK_EVERY_S if for_s is None else began + for_s - time.monotonic()
            if left <= 0:
                return False
            if wait(min(LOOK_EVERY_S, left)):
                return True
    except KeyboardInterrupt:
        return False
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _nothing(seen: Measured, name: str) -> str:
    if seen.unreadable:
        return f"what {name} holds can't be read; it may belong to another user"
    return f"no process of {name} was seen; load it first (admit load {name}), or see why: admit explain {name}"


def _notes(seen: Measured) -> list[str]:
    notes = []
    if seen.was_idle:
        notes.append("it hardly worked while it was watched; use it as you mean to, with long prompts, and look again")
    if seen.unreadable:
        notes.append(f"{seen.unreadable} times it could not be read, and may have held more")
    return notes


def _report(
    seen: Measured, as_json: bool, what: str, service: Service | None = None, written: str | None = None
) -> None:
    budget_mb = to_mb(sizing.budget(seen.most))
    declared_mb = None if service is None else to_mb(service.budget.get(RAM, 0))
    if as_json:
        report = {
            "service" if service is not None else "command": what,
            "peak_mb": to_mb(seen.most),
            "seen_peak_mb": to_mb(seen.peak),
            "kernel_peak_mb": None if seen.kernel_peak is None else to_mb(seen.kernel_peak),
            "group_peak_mb": None if seen.group_peak is None else to_mb(seen.group_peak),
            "gpu_peak_mb": {gpu: to_mb(amount) for gpu, amount in seen.gpu_peaks.items()},
            "last_mb": to_mb(seen.last),
            "ram_budget_mb": budget_mb,
            "declared_mb": declared_mb,
            "margin": sizing.MARGIN,
            "watched_s": round(seen.watched_s, 1),
            "looks": seen.looks,
            "processes": len(seen.processes),
            "cpu_s": None if seen.cpu_s is None else round(seen.cpu_s, 2),
            "written": written,
            "notes": _notes(seen),
        }
        render.print_json(report)
        return
    several = f", {len(seen.processes)} processes" if len(seen.processes) > 1 else ""
    print(f"{what} held {in_words(seen.peak)} at most, {in_words(seen.last)} last ({seen.watched_s:.0f} s{several})")
    if seen.kernel_peak is not None and to_mb(seen.kernel_peak) > to_mb(seen.peak):
        print(f"  {in_words(seen.kernel_peak)} at most since it started, as the kernel has it")
    if seen.group_peak is not None:
        print(f"  {in_words(seen.group_peak)} at most in its control group, with the files that are cached for it")
    for gpu, amount in seen.gpu_peaks.items():
        print(f"  {in_words(amount)} at most on {gpu}, which is no RAM and in no budget")
    told = (
        ""
        if declared_mb is None
        else f"; capacity.yaml said {declared_mb}"
        if written
        else f"; declared: {declared_mb}"
    )
    print(f"ram_budget_mb: {budget_mb}   # the peak and {sizing.MARGIN - 1:.0%}, rounded up{told}")
    for note in _notes(seen):
        print(f"note: {note}")
    if written:
        print(f"written to {written}")
