"""Events: what is written down can be read back, whatever it holds, by this version and by the next."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.core.events import KINDS, NUMBERS_MAX, QUOTED_MAX, TEXT_MAX, Event, Severity, brief, from_json, to_json

ROOT = Path(__file__).parents[2]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50)
events = st.builds(
    Event,
    st.sampled_from(sorted(KINDS)),
    st.text(max_size=200),
    st.sampled_from(Severity),
    st.none() | st.text(max_size=63),
    st.none() | st.text(max_size=100),
    st.dictionaries(st.text(min_size=1, max_size=20), scalars, max_size=8),
)


def through_json(event: Event) -> Event:
    return from_json(json.loads(json.dumps(to_json(event), allow_nan=False)))


@given(events)
def test_what_was_written_is_read_back(event: Event) -> None:
    again = through_json(event)
    assert (again.kind, again.text, again.severity) == (event.kind, event.text, event.severity)
    assert (again.service, again.next) == (event.service, event.next)
    assert through_json(again) == again


def test_numbers_keep_their_kinds() -> None:
    numbers = {"free_mb": 12, "share": 0.5, "state": "loaded", "pinned": True, "available_mb": None}
    assert through_json(Event("admitted", "x", numbers=numbers)).numbers == numbers


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1 << 80])
def test_what_json_cannot_carry_becomes_null(odd: float) -> None:
    assert through_json(Event("admitted", "x", numbers={"odd": odd})).numbers == {"odd": None}


def test_an_event_is_bounded() -> None:
    huge = Event("closed", "x" * 1_000_000, numbers={f"n{i}": "y" * 1_000_000 for i in range(1_000)})
    body = to_json(huge)
    assert len(body["text"]) == TEXT_MAX
    assert len(body["numbers"]) == NUMBERS_MAX
    assert len(json.dumps(body)) < TEXT_MAX * (NUMBERS_MAX + 2)


def test_a_newer_version_may_know_more_kinds_and_severities() -> None:
    newer = {"kind": "frozen_over", "severity": "amusing", "text": "x", "mood": "?"}
    assert from_json(newer) == Event("frozen_over", "x")


@pytest.mark.parametrize(
    "body",
    [{}, {"kind": "woken"}, {"text": "x"}, {"kind": 3, "text": "x"}, {"kind": "Not A Word", "text": "x"}],
)
def test_what_is_no_event_is_not_taken_for_one(body: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_json(body)


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"503 from http://h:8080/v1?api_key={SECRET}, expected 200", "503 from http://h:8080/v1, expected 200"),
        (f"http://me:{SECRET}@h/ and https://me:{SECRET}@{SECRET}@h:1/a/b#{SECRET}", "http://h/ and https://h:1/a/b"),
        (f"(see http://h/?{SECRET}&b=c).", "(see http://h/)."),
        (f"ended with exit 1: cannot\n{SECRET}", "ended with exit 1: cannot"),
        (
            "http://[::1]:8080/v1 is fine, and so is 12:30 @home #1?",
            "http://[::1]:8080/v1 is fine, and so is 12:30 @home #1?",
        ),
    ],
)
def test_no_event_has_more_of_a_url_than_where_it_leads_nor_a_second_line(text: str, kept: str) -> None:
    assert Event("probe_failed", text).text == kept
    assert from_json({"kind": "probe_failed", "text": text}).text == kept, "nor what an older version wrote"


@pytest.mark.parametrize(
    ("said", "part"), [("a: b\nc", "a: b"), ("503, expected 200:\nc", "503, expected 200"), (" \n x", "x"), ("", "")]
)
def test_what_others_say_is_quoted_in_brief(said: str, part: str) -> None:
    assert brief(said) == part
    assert len(brief("y" * 5000)) == QUOTED_MAX


def test_severities_have_an_order() -> None:
    assert Severity.INFO.rank < Severity.WARNING.rank < Severity.CRITICAL.rank


def test_the_code_writes_no_kind_that_is_not_declared() -> None:
    found = set()
    for path in (ROOT / "admitd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(first.value)
    assert found <= KINDS, f"declare them in admitd/core/events.py: {found - KINDS}"
