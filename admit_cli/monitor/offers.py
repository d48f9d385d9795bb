"""offers: what is asked before a command is run, and what may be done after it failed. Pure: words in, words out.

Only what is shown is agreed to: victims are unloaded by name, and what else would have to go by then is asked anew. No
answer has a key of the monitor's own: a question may come up while somebody types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from admitd.core import wire

Commands = tuple[tuple[str, ...], ...]
_MEANINGS: Final = {
    wire.FAILED: "failed",
    wire.REFUSED: "refused",
    wire.NO_SUCH: "no such service",
    wire.TIMED_OUT: "not in time",
    wire.BAD_CONFIG: "the configuration is wrong",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A question: its text, and for each key what it is called and which commands of `admit` it runs."""

    title: str
    text: str
    answers: Mapping[str, tuple[str, Commands]] = field(default_factory=dict)


def load(service: Mapping[str, Any], plan: Mapping[str, Any]) -> Offer:
    """Before a load: whether it fits, and what would have to go."""
    if service["state"] not in ("stopped", "reserved"):
        return Offer(f"{service['name']} is loaded already", _planned(plan))
    ways = _ways(service["name"], plan)
    title = f"Load {service['name']}?" if ways else f"{service['name']} cannot be loaded now"
    return Offer(title, _planned(plan), ways)


def unload(service: Mapping[str, Any]) -> Offer:
    """Before an unload."""
    name = service["name"]
    held = "" if service["measured_mb"] is None else f" and holds {service['measured_mb']} MB"
    pids = f" Its processes: {' '.join(map(str, service['pids']))}." if service["pids"] else ""
    text = f"{name} is charged {service['charged_mb']} MB{held}.{pids}\nIts unload_cmd is run; without one, SIGTERM."
    return Offer(f"Unload {name}?", text, {"y": ("Unload it", (("unload", name),))})


def after(commands: Commands, code: int, said: str, plan: Mapping[str, Any] | None) -> Offer:
    """After a command that failed: what it said, and what may be done now. `plan`: of a load that was refused."""
    words = commands[-1]
    title = f"{_called(commands)}: {_MEANINGS.get(code, f'exit {code}')}"
    if words[0] == "unload" and code == wire.TIMED_OUT and "--kill" not in words:
        return Offer(title, said, {"k": ("SIGKILL what is left", ((*words, "--kill"),))})
    if plan is not None and code == wire.REFUSED:
        return Offer(title, said, _ways(words[1], plan))
    return Offer(title, said)


def _planned(plan: Mapping[str, Any]) -> str:
    lines = [plan["detail"]]
    if plan["victims"]:
        lines.append(f"To make room, these would be unloaded: {', '.join(plan['victims'])}.")
    if plan["remedy"]:
        lines += ["", f"  {plan['remedy']}"]
    return "\n".join(lines)


def _ways(name: str, plan: Mapping[str, Any]) -> dict[str, tuple[str, Commands]]:
    """How it may be loaded, by what stands in the way."""
    if plan["fits"]:
        return {"y": ("Load it", (("load", name),))}
    if plan["victims"]:
        victims = tuple(plan["victims"])
        return {"y": (f"Unload {' '.join(victims)}, then load", (("unload", *victims), ("load", name)))}
    if plan["remedy"]:
        return {"w": ("Wait in the queue, 10 min at most", (("load", name, "--wait", "10m"),))}
    return {}


def _called(commands: Commands) -> str:
    return "admit " + ", admit ".join(" ".join(words) for words in commands)
