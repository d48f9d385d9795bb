"""ofthefile: checks of capacity.yaml by itself: that it is there, right, private, and that its commands exist."""

from __future__ import annotations

from admitd.core.terms import Capacity
from admitd.doctor.finding import Facts, Finding, fault, ok, warning


def file(facts: Facts) -> list[Finding]:
    """It is there and says nothing wrong."""
    if facts.path is None:
        places = ", ".join(facts.looked)
        return [fault(f"there is no capacity.yaml; looked for in {places}", facts.again("init"))]
    wrong = [problem for problem in facts.problems if not _is_loose(problem.instead)]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return [fault(f"{wrong[0]}{more}", facts.again("config", "check"))]
    if facts.capacity is None:
        return [fault(f"{facts.path} cannot be read as it is", facts.again("config", "check"))]
    return ok(f"{facts.path} declares {len(facts.capacity.services)} services")


def rights(facts: Facts) -> list[Finding]:
    """Nobody else may write to it, or to the folders of admit."""
    findings = []
    for problem in facts.problems:
        if _is_loose(problem.instead):
            findings.append(fault(f"{problem.file} {problem.what}", _command(problem.instead)))
    for what, mend in facts.loose:
        findings.append(fault(what, mend))
    return findings or ok("nobody else may write to the file, the token, or the folders of admit")


def commands(facts: Facts, _: Capacity) -> list[Finding]:
    """What the commands of the file run is there."""
    findings = []
    for each in facts.missing:
        where = f"{each.service}: {each.key}" if each.service else each.key
        what = f"{where} goes to {each.program}, which is no folder" if each.folder else ""
        what = what or f"{where} runs {each.program}, which is not found in PATH and is no file"
        level = fault if each.key in ("load_cmd", "loaded_check_cmd") else warning
        findings.append(level(what, facts.by_hand, each.service))
    return findings or ok("the programs of all commands are found")


def notifying(facts: Facts, declared: Capacity) -> list[Finding]:
    """Whoever is to be told can be."""
    sentinel = declared.sentinel
    elsewhere = [url for url in sentinel.notify if not url.startswith("desktop:")]
    if elsewhere and facts.install_apprise:
        return [fault(f"{len(elsewhere)} of sentinel.notify need Apprise, which is missing", facts.install_apprise)]
    if not sentinel.notify and sentinel.notify_command is None:
        return ok("nobody is told of anything (sentinel.notify is empty); admit events shows it")
    return ok("who is to be told can be told")


def _is_loose(instead: str) -> bool:
    """As ownfile says it of rights."""
    return instead.startswith("run:") or "run, if you trust" in instead


def _command(instead: str) -> str:
    return instead.partition(": ")[2] or instead
