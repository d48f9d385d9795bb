"""Above the budget: told. Above the hard limit: closed. Each with the look beside it that does nothing."""

from __future__ import annotations

import pytest

from admitd.core import runaway
from admitd.core.acts import Act, Close, Tell
from admitd.core.ledger import Account
from admitd.core.runaway import Memory
from admitd.core.terms import State
from tests.core.worlds import ram, service

GRACE_S = 5.0


def holds(megabytes: int | None, limit_mb: int | None = None, state: State = State.LOADED) -> Account:
    declared = service("x", 1_000, hard_limit=None if limit_mb is None else ram(limit_mb))
    return Account(declared, state, ram(1_000), None if megabytes is None else ram(megabytes))


def word(act: Act) -> str:
    return "close" if isinstance(act, Close) else act.event.kind if isinstance(act, Tell) else "?"


ROWS = [
    ("within its budget", [(0, holds(1_000))], []),
    ("above it", [(0, holds(1_001))], ["0 over_budget"]),
    ("told once", [(0, holds(1_001)), (10, holds(2_000)), (20, holds(3_000))], ["0 over_budget"]),
    ("back, but only just", [(0, holds(1_001)), (10, holds(960))], ["0 over_budget"]),
    ("well back", [(0, holds(1_001)), (10, holds(940))], ["0 over_budget", "10 under_budget"]),
    ("and above again", [(0, holds(1_001)), (10, holds(940)), (20, holds(1_001))],
     ["0 over_budget", "10 under_budget", "20 over_budget"]),
    ("swaying", [(0, holds(1_001)), (10, holds(999)), (20, holds(1_001))], ["0 over_budget"]),
    ("not measured", [(0, holds(None))], []),
    ("not loaded", [(0, holds(5_000, 2_000, State.STOPPED))], []),
    ("at its limit", [(0, holds(2_000, 2_000))], ["0 over_budget"]),
    ("above its limit", [(0, holds(2_001, 2_000))], ["0 close", "0 over_budget"]),
    ("above, and no limit", [(0, holds(900_000))], ["0 over_budget"]),
    ("stopped, and above its limit", [(0, holds(2_001, 2_000, State.SUSPENDED))], ["0 close", "0 over_budget"]),
    ("closed once while it is being closed", [(0, holds(2_001, 2_000)), (10, holds(2_001, 2_000))],
     ["0 close", "0 over_budget"]),
    ("still there long after", [(0, holds(2_001, 2_000)), (66, holds(2_001, 2_000))],
     ["0 close", "0 over_budget", "66 close"]),
    ("below, and then above again", [(0, holds(2_001, 2_000)), (10, holds(1_500, 2_000)), (20, holds(2_001, 2_000))],
     ["0 close", "0 over_budget", "20 close"]),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "asked"), [pytest.param(looks, asked, id=why) for why, looks, asked in ROWS])
def test_what_is_done(looks: list[tuple[float, Account]], asked: list[str]) -> None:
    memory = Memory()
    found = []
    for now, account in looks:
        memory, acts = runaway.step(memory, now, [account], GRACE_S)
        found += [f"{now:g} {word(act)}" for act in acts]
    assert found == asked


def test_it_says_why_with_the_numbers() -> None:
    _, acts = runaway.step(Memory(), 0.0, [holds(2_001, 2_000)], GRACE_S)
    close, told = acts
    assert close == Close("x", "it held 2001 MB, above its hard_limit_mb of 2000", GRACE_S)
    assert isinstance(told, Tell)
    assert told.event.next == "admit measure x"
    assert told.event.numbers == {"measured_mb": 2001, "budget_mb": 1000, "hard_limit_mb": 2000}
