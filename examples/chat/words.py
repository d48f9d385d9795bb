"""words: what the user sees of memory: a badge that is always there, a banner when it gets short, and messages."""

from __future__ import annotations

from admit_sdk import ModelPool, Pressure, ResourceNotAvailableError
from admit_sdk.lifecycle import State
from admitd.core.units import to_mb

MARKS = {Pressure.HIGH: "! ", Pressure.CRITICAL: "!! "}
BANNERS = {
    Pressure.HIGH: "Memory is getting short. Models that you do not use are unloaded first; nothing is lost.",
    Pressure.CRITICAL: "Memory is nearly used up. Models are being unloaded; answers may take longer to begin.",
}
AGAIN = "Memory is fine again."


def badge(pool: ModelPool) -> str:
    """For the prompt: how bad it is, and what of the budget is taken."""
    governor = pool.governor
    pressure = governor.pressure
    return (
        f"[{MARKS.get(pressure, '')}memory {pressure.word}: {to_mb(governor.allocated_bytes)} of "
        f"{to_mb(governor.soft_bytes)} MB]"
    )


def banner(before: Pressure, now: Pressure) -> str | None:
    """What to say when the pressure changes; nothing where the user would learn nothing from it."""
    if now in BANNERS:
        return f"*** {BANNERS[now]} ***"
    return f"*** {AGAIN} ***" if before in BANNERS else None


def news(model: str, state: State) -> str | None:
    """What to say when something happens to a model."""
    return {
        State.LOADING: f"({model} is being loaded)",
        State.DEAD: f"({model} was unloaded; the conversation is kept, and your next message loads it again)",
        State.FAILED: f"({model} had to be unloaded)",
    }.get(state)


def refusal(why: ResourceNotAvailableError) -> str:
    """There is no room: the numbers, and what would help."""
    return f"There is no room to answer: {why}."


def status(pool: ModelPool) -> str:
    """For /status: who is loaded, and what the process really holds."""
    lines = [f"  {each.model:12} {each.state:9} {to_mb(each.size_bytes):6} MB" for each in pool.status()]
    held = pool.holdings()
    gpu = "" if held.gpu is None else f", {to_mb(held.gpu)} MB of it the GPU's"
    lines.append(f"  this app holds {to_mb(held.counted)} MB{gpu}; its hard limit is {to_mb(pool.hard_bytes)} MB")
    return "\n".join(lines)
