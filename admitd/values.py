"""values: reads one value of capacity.yaml and, where it is wrong, says what to write instead.

Each reader takes what YAML made of the text and returns the value or raises pydantic's own error with two parts:
`what` is wrong and what to write `instead`. `{written}` in there stands for the text as the user wrote it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from admitd import __version__
from admitd.core.units import parse_amount, parse_duration, to_mb
from admitd.problem import show

NEWEST: Final = 1
"""The version of capacity.yaml that this code reads, and all before it."""
MOST_MB: Final = 1 << 30
"""1 PiB: more than any machine has."""
LONGEST_S: Final = 604_800
"""A week: no load takes longer."""
LARGEST_PRIORITY: Final = 1_000_000
_DEEPEST_JSON: Final = 16

_WORDS: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_ON_PRESSURE: Final = ("tell", "evict")
METHODS: Final = ("GET", "HEAD", "POST", "PUT")


def wrong(what: str, instead: str) -> PydanticCustomError:
    return PydanticCustomError("admit", "{what}; {instead}", {"what": what, "instead": instead})


def budget_mb(value: object) -> int:
    return _megabytes(value, 1, "45000")


def physical_mb(value: object) -> int | None:
    return None if value is None else _megabytes(value, 1, "65536")


def limit_mb(value: object) -> int | None:
    return None if value is None else _megabytes(value, 1, "50000")


def kept_mb(value: object) -> int:
    return _megabytes(value, 0, "4096")


def _megabytes(value: object, least: int, example: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong(f"{_said(value)} is no amount of memory", f"write whole MB, for example {example}")
    if isinstance(value, str):
        raise wrong(f"{show(value)} is text, not a number of MB", f"write {_mb_of_text(value) or example}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise wrong("{written} is not a finite number", f"write whole MB, for example {example}")
        if value > MOST_MB:
            raise wrong(f"{{written}} MB is more than the {MOST_MB} MB (1 PiB) of any machine", f"write {example}")
        raise wrong("{written} is not a whole number of MB", f"write {max(least, math.ceil(value))}")
    if value < least:
        what = "a budget of {written} MB is nothing" if example == "45000" else "{written} MB is not an amount"
        raise wrong(what, f"write whole MB of at least {least}, for example {example}")
    if value > MOST_MB:
        raise wrong(f"{{written}} MB is more than the {MOST_MB} MB (1 PiB) of any machine", f"write {example}")
    return value


def _mb_of_text(text: str) -> int | None:
    """What was probably meant by "45 GB", "45,000" or "45000"."""
    plain = text.replace(",", "").replace("_", "").strip()
    try:
        amount = int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 12 else to_mb(parse_amount(plain))
    except ValueError:
        return None
    return amount if 0 < amount <= MOST_MB else None


def seconds(value: object) -> float:
    return _seconds(value, 0.0)


def maybe_seconds(value: object) -> float | None:
    return None if value is None else _seconds(value, 0.0)


def interval_s(value: object) -> float:
    return _seconds(value, 0.1)


def _seconds(value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong(f"{_said(value)} is no number of seconds", "write seconds, for example 300")
    if isinstance(value, str):
        raise wrong(f"{show(value)} is text, not a number of seconds", f"write {_seconds_of_text(value) or 300}")
    if not -math.inf < value < math.inf:
        raise wrong("{written} is not a finite number", "write seconds, for example 300")
    if value <= 0 or value < least:
        raise wrong("{written} seconds is too short", f"write at least {least}" if least else "write more than 0")
    if value > LONGEST_S:
        raise wrong(f"{{written}} seconds is more than the {LONGEST_S} of a week", f"write at most {LONGEST_S}")
    return float(value)


def _seconds_of_text(text: str) -> str | None:
    try:
        found = parse_duration(text)
    except ValueError:
        return None
    return f"{found:g}" if 0 < found <= LONGEST_S else None


def priority(value: object) -> int:
    return _whole(value, -LARGEST_PRIORITY, LARGEST_PRIORITY, "100")


def count(value: object) -> int:
    return _whole(value, 1, 1000, "3")


def version(value: object) -> int:
    """The version of the file's format: what a newer admit wrote may mean what this one does not know."""
    if isinstance(value, int) and value > NEWEST:
        raise wrong(
            f"{{written}} is newer than {NEWEST}, the newest that admit {__version__} reads",
            f"upgrade admit, or write {NEWEST} if nothing in the file needs more",
        )
    return _whole(value, 1, NEWEST, str(NEWEST))


def status(value: object) -> int:
    return _whole(value, 100, 599, "200")


def _whole(value: object, least: int, most: int, example: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(f"{_said(value)} is not a whole number", f"write a whole number, for example {example}")
    if not least <= value <= most:
        raise wrong(f"{{written}} is not between {least} and {most}", f"write for example {example}")
    return value


def switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    meant = _WORDS.get(value.strip().lower()) if isinstance(value, str) else None
    word = "true or false" if meant is None else show(meant)
    raise wrong(f"{_said(value)} is neither true nor false", f"write {word}, without quotes")


def on_off(value: object) -> bool:
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if isinstance(value, bool):
        return value
    raise wrong(f"{_said(value)} is neither on nor off", "write on or off")


def text(value: object) -> str:
    """Text with something in it, that fits on one line."""
    value = _any_text(value)
    if "\n" in value or "\r" in value:
        raise wrong("a line break inside the text", "write it on one line")
    return value


def _any_text(value: object) -> str:
    if isinstance(value, bool | int | float):
        raise wrong(f"YAML reads {{written}} as {_kind(value)}, not as text", 'quote it: write "{written}"')
    if not isinstance(value, str):
        raise wrong(f"{_said(value)} is not text", "write text, in quotes where it holds : or #")
    if not value.strip():
        raise wrong("the text is empty", "write something, or take the line out")
    if "\0" in value:
        raise wrong("a NUL character in the text", "take the \\0 out")
    return value


def maybe_text(value: object) -> str | None:
    return None if value is None else text(value)


def maybe_pattern(value: object) -> str | None:
    """Only that it is text: patterns are compiled together, later, because together they are bounded."""
    return None if value is None else text(value)


def command(value: object) -> str | list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        return _any_text(value)
    if not value:
        raise wrong("a command of no words", "write at least the program, or take the line out")
    for place, word in enumerate(value, 1):
        if isinstance(word, bool | int | float):
            raise wrong(f"word {place} of the command is {_kind(word)}, not text", f'quote it: write "{show(word)}"')
        if not isinstance(word, str):
            raise wrong(f"word {place} of the command is {_said(word)}, not text", "write text")
        if "\0" in word:
            raise wrong(f"a NUL character in word {place} of the command", "take the \\0 out")
    if not value[0].strip():
        raise wrong("the command does not begin with a program", "write the program as the first word")
    return value


def names(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        word = value if value.isprintable() and 0 < len(value) < 64 else "one, other"
        raise wrong(f"{show(value)} is one word, not a list", f"write [{word}]")
    raise wrong(f"{_said(value)} is not a list", "write a list, for example [one, other]")


def method(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in METHODS):
        return value
    known = isinstance(value, str) and value.upper() in METHODS
    hint = str(value).upper() if known else f"one of {', '.join(METHODS)}"
    raise wrong(f"{_said(value)} is not a method", f"write {hint}")


def url(value: object) -> str:
    value = text(value)
    example = "write for example http://127.0.0.1:8080/v1/chat/completions"
    if "@" in re.split("[/?#]", value.partition("://")[2], maxsplit=1)[0]:  # not shown: it may be a password
        raise wrong(
            "the URL names a user, and a probe sends neither a user nor a password",
            "take out what stands before the @; what asks for a password is seen by a loaded_check_cmd",
        )
    if any(character <= " " or character == "\x7f" for character in value) or not value.isascii():
        raise wrong(f"{show(value)} holds characters that no URL has", example)
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise wrong(f"{show(value)} is not an http URL", example)
    return value


def on_pressure(value: object) -> str:
    if isinstance(value, str) and value.lower() in _ON_PRESSURE:
        return value.lower()
    raise wrong(f"{_said(value)} is nothing that can be done", f"write {' or '.join(_ON_PRESSURE)}")


def notify_url(value: object) -> str:
    """A URL of Apprise. It may hold a password, so it is never shown."""
    if not isinstance(value, str) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\S*\Z", value):
        raise wrong("this is no URL that Apprise knows", "write for example ntfy://ntfy.sh/my-topic, in quotes")
    return value


def body(value: object) -> object:
    """Anything that JSON can carry."""
    _check_json(value, 0)
    return value


def _check_json(value: object, depth: int) -> None:
    if depth > _DEEPEST_JSON:
        raise wrong(f"nested more than {_DEEPEST_JSON} deep", "write a smaller request")
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(f"{show(value)} cannot stand in JSON", "write a finite number")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_json(each, depth + 1)
    if depth == 0 and len(json.dumps(value)) > 1 << 16:
        raise wrong("a request of more than 64 KiB", "write a smaller request")


def _said(value: object) -> str:
    """The value as the user wrote it, or what kind of thing it is."""
    if value is None:
        return "an empty value"
    return "{written}" if isinstance(value, bool | int | float) else show(value)


def _kind(value: object) -> str:
    return f"the switch {show(value)}" if isinstance(value, bool) else "a number"
