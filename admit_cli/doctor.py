"""doctor: `admit doctor`: every check a line: ok, warning or fault, why, and the command that mends it."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from admit_cli import render
from admit_cli.door import BadSetting
from admit_cli.tell import out, printable
from admitd import doctor as checks
from admitd import places
from admitd.core import wire
from admitd.doctor.finding import Level
from admitd.doctor.gather import gather

_COLOURS: Final = {Level.OK: "32", Level.WARNING: "33", Level.FAULT: "31"}


def doctor(values: dict[str, Any]) -> int:
    """Look, say what was found; 1 where there is a fault."""
    try:
        port = places.port(os.environ)
    except ValueError as problem:
        raise BadSetting(str(problem)) from problem
    facts = gather(os.environ, values["config"], port)
    found = checks.examine(facts)
    count = {level: sum(finding.level is level for _, finding in found) for level in Level}
    if values["json"]:
        findings = [
            {
                "check": check.name,
                "level": finding.level.value,
                "what": finding.what,
                "mend": finding.mend,
                "service": finding.service,
            }
            for check, finding in found
        ]
        render.print_json({"ok": not count[Level.FAULT], "file": facts.path, "findings": findings})
        return wire.FAILED if count[Level.FAULT] else wire.OK
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    wide = max(len(check.name) for check, _ in found)
    for check, finding in found:
        word = f"{finding.level.value:7}"
        word = f"\x1b[{_COLOURS[finding.level]}m{word}\x1b[0m" if colours else word
        out(f"{word}  {check.name:{wide}}  {printable(finding.what)}")
        if finding.mend is not None:
            out(f"{'':7}  {'':{wide}}  mend: {printable(finding.mend)}")
    said = [f"{count[level]} {level.value}{'' if count[level] == 1 else 's'}" for level in (Level.FAULT, Level.WARNING)]
    out(f"{', '.join(said)}, {count[Level.OK]} ok")
    left_out = checks.left_out(facts)
    if left_out:
        out(f"not looked at, for want of a good file: {', '.join(left_out)}")
    return wire.FAILED if count[Level.FAULT] else wire.OK
