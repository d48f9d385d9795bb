"""The contract's own example, number by number: two models on one machine, in the pure core."""

from __future__ import annotations

from admitd.core.admission import decide, settle
from admitd.core.terms import State
from admitd.core.verdict import Admitted, AlreadyLoaded, Reason, Unload, Wait
from tests.core.worlds import (
    CODER,
    MANOIR,
    QUIET,
    SANCTUM,
    ask,
    capacity,
    check,
    ledger,
    loaded,
    mb,
    refusal,
    request,
    reserved,
    service,
    without,
)


def test_seed_the_first_model_is_admitted_to_the_empty_pool() -> None:
    verdict = ask(MANOIR, "sanctum-mlx")
    assert isinstance(verdict, Admitted)
    assert (mb(verdict.budget), mb(verdict.free), verdict.reservation) == (45_000, 49_152, None)


def test_seed_while_it_loads_it_is_charged_and_excludes_the_second() -> None:
    derived = ledger(MANOIR, reserved("sanctum-mlx", 45_000))
    assert mb(derived.free) == 4_152
    refused = refusal(decide(derived, QUIET, request(MANOIR, "lmstudio-coder-14b")))
    assert refused.reason is Reason.EXCLUSIVE
    assert refused.remedy == Wait("lmstudio-coder-14b", 300.0)
    assert refused.retry_after_s == 5.0
    assert [(b.label, b.state, mb(b.charge)) for b in refused.blockers] == [("sanctum-mlx", "reserved", 45_000)]


def test_seed_once_loaded_it_is_already_loaded() -> None:
    verdict = ask(MANOIR, "sanctum-mlx", loaded("sanctum-mlx"))
    assert isinstance(verdict, AlreadyLoaded)
    assert (verdict.state, mb(verdict.budget), mb(verdict.free)) == (State.LOADED, 45_000, 4_152)


def test_seed_the_second_is_refused_and_the_first_has_the_higher_priority() -> None:
    refused = refusal(ask(MANOIR, "lmstudio-coder-14b", loaded("sanctum-mlx")))
    assert refused.reason is Reason.EXCLUSIVE
    assert (mb(refused.budget), mb(refused.free), mb(refused.shortfall)) == (12_000, 4_152, 7_848)
    assert (refused.victims, refused.remedy, refused.retry_after_s) == ((), None, None)
    (blocker,) = refused.blockers
    assert (blocker.label, blocker.state, mb(blocker.charge)) == ("sanctum-mlx", "loaded", 45_000)
    assert blocker.remedy == Unload(("sanctum-mlx",))
    assert "its priority 100 is higher than 50" in blocker.why
    assert "lmstudio-coder-14b never runs beside sanctum-mlx (loaded)." in refused.message
    assert "sanctum-mlx has a higher priority" in refused.message


def test_seed_the_other_way_round_the_remedy_is_to_unload_the_second() -> None:
    derived = ledger(MANOIR, check("lmstudio-coder-14b", True))
    assert (mb(derived.charged), mb(derived.free)) == (12_000, 37_152)
    refused = refusal(decide(derived, QUIET, request(MANOIR, "sanctum-mlx")))
    assert refused.reason is Reason.EXCLUSIVE
    assert (mb(refused.budget), mb(refused.free), mb(refused.shortfall)) == (45_000, 37_152, 7_848)
    assert refused.victims == ("lmstudio-coder-14b",)
    assert refused.remedy == Unload(("lmstudio-coder-14b",))
    after = decide(without(derived, *refused.victims), QUIET, request(MANOIR, "sanctum-mlx"))
    assert isinstance(after, Admitted)
    assert mb(after.free) == 49_152


def test_seed_without_the_exclusion_the_second_is_short_of_7848() -> None:
    declared = capacity(
        service("sanctum-mlx", 45_000, priority=100), service("lmstudio-coder-14b", 12_000, priority=50)
    )
    refused = refusal(ask(declared, "lmstudio-coder-14b", loaded("sanctum-mlx")))
    assert refused.reason is Reason.NO_HEADROOM
    assert (mb(refused.budget), mb(refused.free), mb(refused.shortfall)) == (12_000, 4_152, 7_848)
    assert refused.message == (
        "lmstudio-coder-14b needs 12000 MB and 4152 MB of the 49152 MB pool are free: 7848 MB short. "
        "Nothing that may be unloaded would make it fit: sanctum-mlx has a higher priority."
    )


def test_seed_both_at_once_the_higher_priority_wins() -> None:
    requests = [request(MANOIR, "lmstudio-coder-14b", 1.0, 1), request(MANOIR, "sanctum-mlx", 2.0, 2)]
    coder, sanctum = settle(ledger(MANOIR), QUIET, requests)
    assert isinstance(sanctum, Admitted)
    assert refusal(coder).reason is Reason.EXCLUSIVE
    assert (SANCTUM.priority, CODER.priority) == (100, 50)
