"""wire: one shape for every door: what each verdict, ledger and error looks like as JSON, and its exit code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from admitd import schemas
from admitd.core import wire
from admitd.core.ledger import Account, Extra, Ledger
from admitd.core.terms import (
    Capacity,
    Check,
    Host,
    Level,
    Process,
    ProcessId,
    Reading,
    Reservation,
    Service,
    Sighting,
    State,
    Waiter,
)
from admitd.core.units import MIB
from admitd.core.verdict import Admitted, AlreadyLoaded, Blocker, Reason, Refused, Unload, Wait

DOCS = Path(__file__).parents[1] / "docs"


def mb(amount: float) -> dict[str, int]:
    return {"ram": int(amount * MIB)}


HELD = Reservation("0123456789abcdef", "x", mb(45_000), ProcessId(123, 4567), 99.0, 1_000.123456)
REFUSED = Refused(
    "x",
    Reason.NO_HEADROOM,
    "x needs 45000 MB.",
    mb(45_000),
    mb(-12.5),
    mb(0.25),
    (
        Blocker("y", "loaded", mb(100), "it is charged 100 MB", Unload(("y",))),
        Blocker("process 7", "undeclared", mb(1), "it would not show itself"),
    ),
    ("y",),
    Unload(("y",)),
)


class TestVerdicts:
    def test_an_admission(self) -> None:
        assert wire.verdict(Admitted("x", mb(45_000), mb(49_152), HELD)) == {
            "verdict": "admitted",
            "service": "x",
            "budget_mb": 45_000,
            "free_mb": 49_152,
            "reservation": {
                "id": "0123456789abcdef",
                "service": "x",
                "budget_mb": 45_000,
                "holder_pid": 123,
                "expires_at": 1000.123,
            },
        }

    def test_an_admission_of_which_nothing_was_written_down(self) -> None:
        assert wire.verdict(Admitted("x", mb(1), mb(2)))["reservation"] is None

    def test_what_is_there_already(self) -> None:
        body = wire.verdict(AlreadyLoaded("x", mb(1), mb(2), State.SUSPENDED, mention_only=True, has_probe=True))
        assert (body["verdict"], body["state"], body["mention_only"]) == ("already_loaded", "suspended", True)
        assert body["has_probe"] is True
        assert body["reservation"] is None

    def test_a_refusal(self) -> None:
        assert wire.verdict(REFUSED) == {
            "type": wire.TYPES + "no-headroom",
            "title": "It does not fit",
            "status": 409,
            "detail": "x needs 45000 MB.",
            "verdict": "refused",
            "reason": "no-headroom",
            "service": "x",
            "budget_mb": 45_000,
            "free_mb": -13,
            "shortfall_mb": 1,
            "blockers": [
                {
                    "service": "y",
                    "state": "loaded",
                    "charged_mb": 100,
                    "why": "it is charged 100 MB",
                    "remedy": "admit unload y",
                },
                {
                    "service": "process 7",
                    "state": "undeclared",
                    "charged_mb": 1,
                    "why": "it would not show itself",
                    "remedy": None,
                },
            ],
            "remedy": "admit unload y",
            "victims": ["y"],
        }

    def test_what_is_charged_is_rounded_up_and_what_is_free_down(self) -> None:
        """Whoever adds what he reads must never come to think that more is free than is."""
        body = wire.verdict(Refused("x", Reason.NO_HEADROOM, "", mb(10.1), mb(9.9), mb(0.2)))
        assert (body["budget_mb"], body["free_mb"], body["shortfall_mb"]) == (11, 9, 1)

    def test_a_place_in_the_queue_is_told_where_there_is_one(self) -> None:
        assert "queue_position" not in wire.verdict(REFUSED)
        body = wire.verdict(Refused("x", Reason.QUEUED, "", mb(1), mb(2), queue_position=3))
        assert body["queue_position"] == 3

    @pytest.mark.parametrize("reason", Reason)
    def test_every_reason_has_a_title_and_a_type(self, reason: Reason) -> None:
        body = wire.verdict(Refused("x", reason, "Because.", mb(1), mb(2)))
        schemas.RefusalBody.model_validate(body)
        assert body["title"] and body["type"].endswith(f":{reason}") and body["reason"] == str(reason)

    def test_titles_differ(self) -> None:
        titles = [wire.verdict(Refused("x", reason, "", mb(1), mb(2)))["title"] for reason in Reason]
        assert len(set(titles)) == len(titles)

    @pytest.mark.parametrize(
        ("given", "status", "code"),
        [
            (Admitted("x", mb(1), mb(2)), 200, 0),
            (AlreadyLoaded("x", mb(1), mb(2), State.LOADED), 200, 0),
            (REFUSED, 409, 2),
        ],
    )
    def test_the_status_and_the_exit_code(self, given: Any, status: int, code: int) -> None:
        assert (wire.status(given), wire.exit_code(given)) == (status, code)

    def test_two_is_for_refusals_alone(self) -> None:
        codes = [wire.OK, wire.FAILED, wire.REFUSED, wire.USAGE, wire.NO_SUCH, wire.NO_DAEMON]
        codes += [wire.TIMED_OUT, wire.BAD_CONFIG]
        assert codes == [0, 1, 2, 64, 66, 69, 75, 78]


class TestRemedies:
    @pytest.mark.parametrize(
        ("remedy", "config", "said"),
        [
            (None, "", None),
            (Unload(("y",)), "", "admit unload y"),
            (Unload(("y", "z")), "", "admit unload y z"),
            (Wait("x", 300.0), "", "admit load x --wait 5m"),
            (Unload(("y",)), "/a b/c.yaml", "admit --config '/a b/c.yaml' unload y"),
            (Wait("x", 300.0), "/it's", """admit --config '/it'"'"'s' load x --wait 5m"""),
            (Wait("x", 300.0, by_hand=True), "", None),
            (Unload(("y",)), "$(rm -rf ~)", "admit --config '$(rm -rf ~)' unload y"),
        ],
    )
    def test_is_a_command_line_that_can_be_pasted(self, remedy: Any, config: str, said: str | None) -> None:
        assert wire.command(remedy, config) == said
        if said is not None and config:
            assert shlex.split(said)[:3] == ["admit", "--config", config]

    def test_who_waits_for_what_has_no_load_cmd_is_told_how(self) -> None:
        by_hand = Wait("x", 300.0, by_hand=True)
        refused = Refused(
            "x", Reason.LOADING, "It is loading.", mb(1), mb(2), remedy=by_hand, retry_after_s=5.0,
            blockers=(Blocker("y", "reserved", mb(1), "why", by_hand),),
        )  # fmt: skip
        for body in (wire.verdict(refused, "/c.yaml"), wire.plan(refused, "/c.yaml")):
            assert body["remedy"] is None
            assert body["detail"] == (
                "It is loading. It has no load_cmd: ask again, or: admit --config /c.yaml run x --wait 5m -- CMD"
            )
        body = wire.verdict(refused)
        schemas.RefusalBody.model_validate(body)
        assert (body["blockers"][0]["remedy"], body["retry_after_s"]) == (None, 5.0)
        assert "retry_after_s" not in wire.verdict(REFUSED)

    def test_names_the_file_throughout_a_refusal(self) -> None:
        body = wire.verdict(REFUSED, "/c.yaml")
        assert body["remedy"] == body["blockers"][0]["remedy"] == "admit --config /c.yaml unload y"


class TestPlans:
    def test_what_would_have_to_go(self) -> None:
        body = wire.plan(REFUSED)
        schemas.Plan.model_validate(body)
        assert body["fits"] is False and body["reason"] == "no-headroom" and body["victims"] == ["y"]
        assert (body["shortfall_mb"], body["free_mb"], body["remedy"]) == (1, -13, "admit unload y")

    @pytest.mark.parametrize(
        ("given", "detail"),
        [
            (Admitted("x", mb(1), mb(2.5)), "x fits: 2 MB are free."),
            (AlreadyLoaded("x", mb(1), mb(2), State.HALF_LOADED), "x is half_loaded already."),
        ],
    )
    def test_nothing_has_to_go(self, given: Any, detail: str) -> None:
        body = wire.plan(given)
        schemas.Plan.model_validate(body)
        assert (body["fits"], body["reason"], body["remedy"], body["victims"]) == (True, None, None, [])
        assert body["detail"] == detail and body["shortfall_mb"] == 0


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    body = wire.problem(404, "Not declared", "No x.", log=["a"])
    assert body == {"type": "about:blank", "title": "Not declared", "status": 404, "detail": "No x.", "log": ["a"]}


def test_a_ledger_shows_everything_and_nobodys_command_line() -> None:
    host = Host("box", mb(16_384), mb(4_096), mb(2_048))
    quiet = Service("quiet", mb(100))
    busy = Service("busy", mb(8_000), priority=5, pinned=True, evictable=False, exclusive_with=frozenset({"b", "a"}))
    checked = Service("checked", mb(10), loaded_check_cmd="true")
    capacity = Capacity(host, {each.name: each for each in (quiet, busy, checked)}, live_veto=True)
    real = Process(ProcessId(7, 70), 0)
    named = Process(ProcessId(8, 80), 0)
    seen = (Sighting("busy", real, False, "server"), Sighting("busy", named, True, "vim"))
    ledger = Ledger(
        capacity,
        mb(10_240),
        {
            "busy": Account(busy, State.LOADED, mb(9_000), mb(8_999.5), seen),
            "checked": Account(checked, State.LOADED, mb(2_000), check=Check("checked", True, "yes")),
        },
        (Extra("process 9", mb(64), "it would not show its command line"),),
        (HELD,),
        (Waiter("w", "x", 3, 1.0, ProcessId(5, 50), 9.0),),
        ("be careful",),
    )
    body = wire.capacity(ledger, Reading(mb(123.9), Level.WARN, "little is left"))
    assert (body["pool_mb"], body["charged_mb"], body["free_mb"]) == (10_240, 11_064, -824)
    by_name = {each["name"]: each for each in body["services"]}
    assert list(by_name) == ["quiet", "busy", "checked"], "in the order of the file"
    assert by_name["busy"] == {
        "name": "busy",
        "state": "loaded",
        "ram_budget_mb": 8_000,
        "charged_mb": 9_000,
        "measured_mb": 9_000,
        "priority": 5,
        "pids": [7],
        "mentioned_by": [8],
        "matched_by": "process_pattern",
        "exclusive_with": ["a", "b"],
        "pinned": True,
        "evictable": False,
        "loadable": False,
        "age_s": None,
        "condition": None,
    }
    assert (by_name["checked"]["matched_by"], by_name["checked"]["measured_mb"]) == ("loaded_check_cmd", None)
    assert (by_name["quiet"]["state"], by_name["quiet"]["matched_by"]) == ("stopped", None)
    assert body["undeclared"] == [{"label": "process 9", "charged_mb": 64, "why": "it would not show its command line"}]
    assert body["waiting"] == [{"service": "x", "priority": 3, "holder_pid": 5}]
    assert body["pressure"] == {"level": "warn", "available_mb": 123, "why": "little is left"}
    assert body["warnings"] == ["be careful"]
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_a_reading_that_says_nothing_is_shown_as_such() -> None:
    ledger = Ledger(Capacity(Host("box", mb(1), {}, {}), {}), mb(1), {})
    assert wire.capacity(ledger, Reading(problem="no such file"))["pressure"] == {
        "level": None,
        "available_mb": None,
        "why": "no such file",
    }


class TestRefusalsDocument:
    TEXT = (DOCS / "refusals.md").read_text(encoding="utf-8")

    def test_has_one_section_for_each_reason_in_their_order(self) -> None:
        assert re.findall(r"^## (.+)$", self.TEXT, re.M) == [str(reason) for reason in Reason]

    @pytest.mark.parametrize("reason", Reason)
    def test_each_says_what_it_means_and_what_to_do(self, reason: Reason) -> None:
        section = self.TEXT.split(f"## {reason}\n")[1].split("\n## ")[0]
        assert "**What it means.**" in section and "**What to do.**" in section

    def test_the_names_of_the_types_are_explained(self) -> None:
        assert f"`{wire.TYPES}" in self.TEXT

    def test_names_the_titles_that_are_sent(self) -> None:
        for reason in Reason:
            assert wire.verdict(Refused("x", reason, "", mb(1), mb(2)))["title"] in self.TEXT
