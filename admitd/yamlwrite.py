"""yamlwrite: values as a person would write them in capacity.yaml; what is read back is what was given, or it is
refused when the file is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from admitd import yamlscalar

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+-]{0,99}\Z")
_URL: Final = re.compile(r"https?://[A-Za-z0-9_./:-]+[A-Za-z0-9_/]\Z")


def scalar(value: object) -> str:
    """One value on one line; lists and mappings in brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return repr(int(value)) if float(value).is_integer() else repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(str(k))}: {_word(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_word(each) for each in value) + "]"
    raise TypeError(f"{type(value).__name__} is nothing that a capacity.yaml holds")


def lines(key: str, value: object, indent: int) -> list[str]:
    """`key: value`, a mapping that has anything in it on lines of its own below the key."""
    front = " " * indent
    if isinstance(value, Mapping) and value:
        below = [line for name, each in value.items() for line in lines(str(name), each, indent + 2)]
        return [f"{front}{_word(key)}:", *below]
    return [f"{front}{_word(key)}: {scalar(value)}"]


def _word(value: Any) -> str:
    """A value inside brackets, where a comma or a colon would end a plain one."""
    if isinstance(value, str):
        return _text(value, url_may_be_plain=False)
    return scalar(value)


def _text(value: str, *, url_may_be_plain: bool = True) -> str:
    plain = _PLAIN.match(value) or (url_may_be_plain and _URL.match(value))
    if plain and isinstance(yamlscalar.as_written(value), str):
        return value
    if not value.isprintable() or ("'" in value and '"' not in value and "\\" not in value):
        return json.dumps(value)
    return "'" + value.replace("'", "''") + "'"
