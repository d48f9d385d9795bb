"""ofcaches: the check of mlx_lm.server's prompt caches, and where the option that bounds them has to be written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from admitd.core.terms import RAM, Capacity, Command, Service
from admitd.core.units import to_mb
from admitd.doctor.commandline import HANDS_OVER, simple_commands
from admitd.doctor.finding import OWN, Facts, Finding, editor, ok, warning

OPTION: Final = "--prompt-cache-bytes"


def caches(facts: Facts, declared: Capacity) -> list[Finding]:
    """No server keeps prompts without a bound."""
    findings = []
    lines = _live_lines(facts)
    for name, service in declared.services.items():
        running = lines.get(name, [])
        live = any(_unbounded(line) for line in running)
        if not live and (running or not _starts_unbounded(service.load_cmd, facts.environ)):
            continue
        size = f"{max(1, to_mb(service.budget.get(RAM, 0)) // 4)}MB"
        where, mend = _bounded(facts, service, live, size)
        what = f"{name}: mlx_lm.server keeps prompts without a limit unless it is given {OPTION}"
        findings.append(warning(what + where, mend, name))
    return findings or ok("no server keeps prompts without a limit")


def _bounded(facts: Facts, service: Service, live: bool, size: str) -> tuple[str, str]:
    """Where the option has to be written, in words, and the command that does it, opens that place, or leads to it."""
    anew = f"{facts.again('unload', service.name)} && {facts.again('load', service.name)}"
    command, text = service.load_cmd, _text(service.load_cmd)
    started = () if command is None else _started(command, facts.environ)
    handed = bool(started) and _name(started[0]) in HANDS_OVER
    kept = _definition(started, facts.uid)
    if kept is None and command is not None and _unbounded(text):
        with_it = None if handed else _with_option(command, size, facts.environ)
        if with_it is None:
            return f"; add {OPTION} {size} to its load_cmd", facts.by_hand
        return "", facts.again("service", "edit", service.name, f"load_cmd={with_it}")
    if kept is None and live and not handed:
        kept = _kept(facts, service.name)
    if kept is not None:
        where, mend = kept
        loads = live and command is not None and not mend.startswith("launchctl ")
        return f"; add {OPTION} {size} to {where}", f"{mend} && {anew}" if loads else mend
    if _serves(text):
        return "; its load_cmd gives it that, and what runs was started without: load it anew", anew
    return f"; add {OPTION} {size} to what starts it", facts.again("explain", service.name)


def _kept(facts: Facts, name: str) -> tuple[str, str] | None:
    """As `_definition`, of who keeps the live one running."""
    supervisor = facts.supervisors.get(name)
    if supervisor is None or supervisor.stop is None or supervisor.name in OWN:
        return None
    return _definition(shlex.split(supervisor.stop), facts.uid)


def _definition(words: Sequence[str], uid: int) -> tuple[str, str] | None:
    """What a systemctl or a launchctl speaks of, and the command that opens where it is defined. A label does not say
    in which file its job is: launchctl does."""
    root = bool(words) and words[0] == "sudo"
    words = words[1:] if root else words
    plain = [word for word in words[1:] if not word.startswith("-")]
    if len(plain) < 2:
        return None
    if _name(words[0]) == "systemctl":
        front = ["systemctl", "--user"] if "--user" in words else ["sudo", "systemctl"]
        return f"the ExecStart of the systemd unit {plain[-1]}", shlex.join([*front, "edit", "--full", plain[-1]])
    if _name(words[0]) != "launchctl":
        return None
    if plain[-1].endswith(".plist"):
        return f"the ProgramArguments in {plain[-1]}", f"{'sudo ' if root else ''}{editor(plain[-1])}"
    target = plain[-1] if "/" in plain[-1] else f"{'system' if root else f'gui/{uid}'}/{plain[-1]}"
    where = f"the ProgramArguments of the launchd job {target.rpartition('/')[2]}, in the file that this names"
    return where, f"{shlex.join(['launchctl', 'print', target])} | grep 'path ='"


def _with_option(command: Command, size: str, environ: Mapping[str, str]) -> str | None:
    """The load_cmd with the option behind it; None where what stands last in it is not the server's own arguments."""
    if not isinstance(command, str):
        return json.dumps([*command, OPTION, size], ensure_ascii=False) if _runs(command) else None
    longer = f"{command.rstrip()} {OPTION} {size}"
    before, after = ([each.argv for each in simple_commands(text, environ)] for text in (command, longer))
    if not before or not _runs(before[-1]) or "#" in command:
        return None
    return longer if after == [*before[:-1], (*before[-1], OPTION, size)] else None


def _runs(words: Sequence[str]) -> bool:
    """Whether the server is among these words, and what stands behind them is an argument of its own."""
    named = any(_name(word) == "mlx_lm.server" for word in words) or "mlx_lm server" in " ".join(words)
    return named and "-c" not in words


def _live_lines(facts: Facts) -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for sighting in facts.look.sightings if facts.look is not None else ():
        raw = facts.look.lines.get(sighting.process.id.pid) if facts.look is not None else None
        if raw is not None and not sighting.mention:
            lines.setdefault(sighting.service, []).append(raw.replace(b"\0", b" ").decode("utf-8", "replace"))
    return lines


def _starts_unbounded(command: Command | None, environ: Mapping[str, str]) -> bool:
    """Whether it starts such a server itself: what hands the work over names a unit, a job or a container at most."""
    if command is None or not _unbounded(_text(command)):
        return False
    started = _started(command, environ)
    return not started or _name(started[0]) not in HANDS_OVER


def _started(command: Command, environ: Mapping[str, str]) -> tuple[str, ...]:
    found = simple_commands(command, environ)
    return found[-1].argv if found else ()


def _unbounded(text: str) -> bool:
    return _serves(text) and OPTION not in text


def _serves(text: str) -> bool:
    return "mlx_lm.server" in text or "mlx_lm server" in text


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _text(command: Command | None) -> str:
    return command if isinstance(command, str) else " ".join(command or ())
