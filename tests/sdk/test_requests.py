"""What can be asked, and of what models: counts are whole numbers, told where they are written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from admit_sdk import Capability, Message, Model, TextToImage, TextToText, Vision
from admit_sdk.requests import SEED_MAX, SIDE_MAX, TOKENS_MAX

TURN = (Message("user", "hello"),)
COUNTS: list[tuple[type, dict[str, Any], str, int, int]] = [
    (TextToText, {"messages": TURN}, "max_tokens", 1, TOKENS_MAX),
    (TextToText, {"messages": TURN}, "seed", 0, SEED_MAX),
    (Vision, {"prompt": "x", "images": (b"x",)}, "max_tokens", 1, TOKENS_MAX),
    (TextToImage, {"prompt": "x"}, "steps", 1, 1000),
    (TextToImage, {"prompt": "x"}, "width", 8, SIDE_MAX),
    (TextToImage, {"prompt": "x"}, "height", 8, SIDE_MAX),
    (TextToImage, {"prompt": "x"}, "seed", 0, SEED_MAX),
    (Model, {"name": "m", "path": Path("m"), "capability": Capability.VISION}, "workers", 1, 16),
    (Model, {"name": "m", "path": Path("m"), "capability": Capability.VISION}, "context", 1, 1 << 24),
    (Model, {"name": "m", "path": Path("m"), "capability": Capability.VISION}, "queue_limit", 1, 1 << 20),
    (Model, {"name": "m", "path": Path("m"), "capability": Capability.VISION}, "size_bytes", 1, 1 << 60),
]
counts = pytest.mark.parametrize(
    ("kind", "fields", "name", "least", "most"),
    COUNTS,
    ids=[f"{kind.__name__} {name}" for kind, _, name, _, _ in COUNTS],
)


@counts
def test_a_count_is_any_whole_number_within_its_bounds(
    kind: type, fields: dict[str, Any], name: str, least: int, most: int
) -> None:
    for value in (least, most):
        assert getattr(kind(**fields, **{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"{name} is {value}; it lies between {least} and {most}$"):
            kind(**fields, **{name: value})


@counts
@pytest.mark.parametrize("value", [16.5, 16.0, True, math.nan, math.inf, "16", [16]], ids=repr)
def test_what_is_no_whole_number_is_no_count(
    kind: type, fields: dict[str, Any], name: str, least: int, most: int, value: object
) -> None:
    """An answer ends when it has max_tokens: with 16.5, or with nan, never."""
    with pytest.raises(ValueError, match=f"{name} is .*; write a whole number that lies between {least} and {most}, "):
        kind(**fields, **{name: value})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (16.5, "max_tokens is 16.5; write a whole number that lies between 1 and 1048576, such as 16"),
        (True, "max_tokens is True; write a whole number that lies between 1 and 1048576, such as 1"),
        (-3.5, "max_tokens is -3.5; write a whole number that lies between 1 and 1048576, such as 1"),
        (math.inf, "max_tokens is inf; write a whole number that lies between 1 and 1048576, such as 1048576"),
        (math.nan, "max_tokens is nan; write a whole number that lies between 1 and 1048576, such as 1"),
        ("16", "max_tokens is '16'; write a whole number that lies between 1 and 1048576, such as 1"),
        (None, "max_tokens is None; write a whole number that lies between 1 and 1048576, such as 1"),
    ],
)
def test_what_to_write_instead_is_said(value: Any, said: str) -> None:
    with pytest.raises(ValueError) as told:
        TextToText.of("hello", max_tokens=value)
    assert str(told.value) == said


def test_of_a_model_it_is_said_which_one() -> None:
    with pytest.raises(ValueError, match=r"gemma: context is 4096\.5; write a whole number .* such as 4096$"):
        Model("gemma", Path("x"), Capability.TEXT_TO_TEXT, context=4096.5)  # type: ignore[arg-type]


def test_what_is_no_count_may_lie_between_two_numbers() -> None:
    TextToText(TURN, temperature=0.5, top_p=0.9)
    TextToImage("x", guidance=2)
    assert TextToText(TURN).seed is None
