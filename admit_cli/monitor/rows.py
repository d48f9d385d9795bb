"""rows: which services are shown, in which order, and what stands in each cell. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from admit_cli import render, states
from admit_cli.door import BadSetting

Service = Mapping[str, Any]

WIDE: Final = 110
"""From this many columns on, there is room for how much of its budget a service holds."""
RIGHT: Final = frozenset({"budget", "holds", "charged", "prio"})
"""Columns of numbers, which stand to the right."""
_BAR: Final = 10
_URGENCY: Final = tuple(states.COLOURS)


def _rank(service: Service) -> int:
    state = states.word(service)
    return _URGENCY.index(state) if state in _URGENCY else len(_URGENCY)


ORDERS: Final[Mapping[str, tuple[Callable[[Service], Any], bool]]] = {
    "file": (lambda service: 0, False),
    "name": (lambda service: service["name"].lower(), False),
    "state": (_rank, False),
    "budget": (lambda service: service["ram_budget_mb"], True),
    "holds": (lambda service: -1 if service["measured_mb"] is None else service["measured_mb"], True),
    "charged": (lambda service: service["charged_mb"], True),
    "prio": (lambda service: service["priority"], True),
}
"""What can be sorted by, and whether the largest comes first. `file`: as capacity.yaml has them. Ties: the same."""


@dataclass(frozen=True, slots=True)
class Order:
    """By what, and whether the other way round."""

    by: str = "file"
    turned: bool = False

    def next(self) -> Order:
        """The next one that can be sorted by."""
        names = list(ORDERS)
        return Order(names[(names.index(self.by) + 1) % len(names)])

    def turn(self) -> Order:
        """The other way round."""
        return replace(self, turned=not self.turned)

    @property
    def is_down(self) -> bool:
        """Whether the largest comes first."""
        return ORDERS[self.by][1] is not self.turned


def order_named(name: str | None) -> Order:
    """The order that a user asked for. Raises BadSetting."""
    if name is None:
        return Order()
    if name not in ORDERS:
        raise BadSetting(f"--sort {name!r} is no column; write one of {', '.join(ORDERS)}")
    return Order(name)


def chosen(services: Iterable[Service], order: Order, wanted: str) -> list[Service]:
    """Services with `wanted` in their name or in what they are, in order."""
    words = wanted.lower().split()
    found = [each for each in services if all(_has(each, word) for word in words)]
    if order.by == "file":
        return found[::-1] if order.turned else found
    return sorted(found, key=ORDERS[order.by][0], reverse=order.is_down)


def _has(service: Service, word: str) -> bool:
    return any(word in text for text in (service["name"].lower(), shown_state(service), service["state"]))


def shown_state(service: Service) -> str:
    """What it is, as people read it."""
    return states.word(service).replace("_", " ")


def are_watched(services: Iterable[Service]) -> bool:
    """Whether anybody knows what one of them does."""
    return any(service.get("condition") for service in services)


def titles(order: Order, width: int, *, watched: bool = False) -> dict[str, str]:
    """The columns: what each is called, with an arrow where it is sorted by. `watched`: with what each does."""
    names = {"name": "SERVICE", "state": "STATE"}
    if watched:
        names["activity"] = "ACTIVITY"
    names |= {"budget": "BUDGET", "holds": "HOLDS"}
    if width >= WIDE:
        names["share"] = "OF ITS BUDGET"
    names |= {"charged": "CHARGED", "prio": "PRIO", "pids": "PIDS"}
    arrow = "▼" if order.is_down else "▲"
    return {key: f"{arrow}{name}" if key == order.by else name for key, name in names.items()}


def cells(service: Service, width: int, *, watched: bool = False) -> dict[str, str]:
    """What stands in a row; amounts in MB."""
    held = service["measured_mb"]
    row = {
        "name": _fitting(service["name"], max(16, width - (72 if watched else 62))),
        "state": shown_state(service),
    }
    if watched:
        row["activity"] = states.activity(service)
    row |= {"budget": str(service["ram_budget_mb"]), "holds": "-" if held is None else str(held)}
    if width >= WIDE:
        share = "" if held is None else f"{render.bar(held / service['ram_budget_mb'], _BAR)} "
        row["share"] = share + ("" if held is None else f"{held / service['ram_budget_mb']:.0%}")
    return row | {
        "charged": str(service["charged_mb"]),
        "prio": str(service["priority"]),
        "pids": render.seen_as(dict(service)),
    }


def _fitting(name: str, width: int) -> str:
    """A name, its middle left out where it is too long: names differ at their ends."""
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - half]}…{name[-half:]}"
