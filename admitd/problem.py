"""problem: what is wrong in the user's file, where it stands, and what to write instead."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

Keys = tuple[str | int, ...]
"""The way to a value inside the file: ("services", "x", "exclusive_with", 0)."""

MOST_SHOWN: Final = 50
"""Nobody reads more, and a hostile file could hold a hundred thousand."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_LONGEST_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` is 0 where the file as a whole is meant; `instead` is an order: "write 46080"."""

    file: str
    path: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        return f"{place}: {path}{self.what}; {self.instead}"


class ConfigError(Exception):
    """A file that cannot be used, with all that is wrong in it at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MOST_SHOWN]]
        if len(self.problems) > MOST_SHOWN:
            lines.append(f"{self.problems[0].file}: and {len(self.problems) - MOST_SHOWN} more problems like these")
        return "\n".join(lines)


class ByHand(Exception):
    """A program can't write it; the text says where a person does."""


class Taken(Exception):
    """There is a file already, and it is never overwritten."""


def spell(keys: Keys) -> str:
    """`services.sanctum-mlx.exclusive_with[0]`; a key that is no name stands in quotes: `services."../../x"`."""
    out = ""
    for key in keys:
        if isinstance(key, int):
            out += f"[{key}]"
        else:
            shown = key if _PLAIN_KEY.match(key) else show(key)
            out += f".{shown}" if out else shown
    return out


def show(value: object) -> str:
    """A value as the user would write it, short and on one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    text = json.dumps(value[:_LONGEST_SHOWN] if isinstance(value, str) else value, ensure_ascii=False, default=str)
    text = printable(text)
    cut = len(text) > _LONGEST_SHOWN + 2 or (isinstance(value, str) and len(value) > _LONGEST_SHOWN)
    return text[:_LONGEST_SHOWN] + "..." if cut else text


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey or could not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    found = get_close_matches(word[:100], list(known), n=1)
    return found[0] if found else None
