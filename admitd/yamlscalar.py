"""yamlscalar: what an unquoted word in a YAML file means: nothing, a switch, a number, or text.

YAML 1.1's words (`yes`, `off`), because people write them, with two of its surprises taken out: `12:30` is not a
number of minutes, and `2026-11-21` is not a date. Both stay text.
"""

from __future__ import annotations

import re
from typing import Final

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SWITCH: Final = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_HEX: Final = re.compile(r"[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE: Final = {
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), "inf"),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), "-inf"),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), "nan"),
}
_NUMBER_STARTS: Final = frozenset("0123456789+-.")
_LONGEST_NUMBER: Final = 400
_KINDS: Final = {"null": type(None), "bool": bool, "int": int, "float": float}
_STANDARD: Final = "tag:yaml.org,2002:"


class NotThatType(ValueError):
    """A value that cannot be what its spelling or its tag promises."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.instead = instead


def as_written(text: str) -> object:
    """The value of an unquoted scalar."""
    if text in _NULL:
        return None
    if text in _SWITCH:
        return _SWITCH[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if text in _NOT_FINITE:
        return float(_NOT_FINITE[text])
    return _number(text)


def _number(text: str) -> object:
    is_int, is_hex = _INT.match(text), _HEX.match(text)
    if not is_int and not is_hex and not (_FLOAT.match(text) and _has_no_leading_zero(text)):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise NotThatType(f"a number of {len(text)} digits", "write a shorter one, or quote it")
    plain = text.replace("_", "")
    if is_hex:
        return int(plain, 16)
    return int(plain) if is_int else float(plain)


def _has_no_leading_zero(text: str) -> bool:
    """`0123` is 83 to one YAML and 123 to another: it stays text, and whoever wanted a number says so."""
    digits = text.lstrip("+-")
    return len(digits) < 2 or digits[0] != "0" or digits[1] in ".eE"


def short_tag(tag: str) -> str:
    """A tag as people write it: `!!int`."""
    return tag.replace(_STANDARD, "!!", 1)[:60]


def as_tagged(tag: str, text: str) -> object:
    """The value of a scalar with a standard tag (`!!int 3`). NotThatType for every other tag."""
    kind = _KINDS.get(tag.removeprefix(_STANDARD)) if tag.startswith(_STANDARD) else None
    if kind is None:
        raise NotThatType(f'the tag "{short_tag(tag)}" has no meaning here', "take the tag out")
    value = as_written(text)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise NotThatType(f'{text[:60]!r} is not what its tag "{short_tag(tag)}" says', "take the tag out")
    return value
