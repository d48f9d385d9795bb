"""states: what is said of a service in one word, and in which colour: its state, or what the sentinel found where it
keeps watching; and whether it works. A process that is there and answers nobody is not called loaded."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

COLOURS = {
    "hung": "red",
    "suspended": "red",
    "silent": "yellow",
    "recovering": "yellow",
    "half_loaded": "yellow",
    "loaded": "green",
    "reserved": "cyan",
    "stopped": "dim",
}
"""The words there are, the most urgent first."""
_NOT_THERE = ("stopped", "reserved")
_UNANSWERED = {"silent": "silent", "left_alone": "hung"}


def word(service: Mapping[str, Any]) -> str:
    """Its state in the ledger; of one that is loaded and does not answer, that."""
    state: str = service["state"]
    probe = (service.get("condition") or {}).get("probe")
    if probe == "recovering":
        return "recovering"
    return _UNANSWERED.get(probe or "", state) if state == "loaded" else state


def activity(service: Mapping[str, Any]) -> str:
    """Whether it works, and for how long it has not; a dash where it is not there, or nobody watches it."""
    known = service.get("condition")
    if not known or service["state"] in _NOT_THERE:
        return "-"
    if known["busy"] is None:
        return "unknown"
    if known["busy"]:
        return "working"
    return "idle" if known["active_s_ago"] is None else f"idle {_since(known['active_s_ago'])}"


def trouble(service: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    """What is wrong with it by what the sentinel found, and the `admit` command that goes on from there."""
    known, name, is_there = service.get("condition"), service["name"], service["state"] not in _NOT_THERE
    if not known:
        return None
    events = ("events", "--service", name)
    if known["probe"] == "recovering":
        return f"{name} is being recovered", (*events, "--follow")
    if known["probe"] == "left_alone":
        why = f"left alone (why: admit {' '.join(events)})"
        if is_there:
            return f"{name} is hung and {why}", ("unload", name)
        return f"{name} was hung, is gone, and is {why}", ("load" if service.get("loadable") else "explain", name)
    if not is_there:
        return None
    if known["probe"] == "silent":
        return f"{name} is silent, {known['probe_failures']} probes in a row", events
    return (f"{name} is half loaded: {known['half_loaded']}", ("explain", name)) if known["half_loaded"] else None


def _since(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
