"""reading: a file's tree -> its shape, with every mistake at once.

pydantic stops caring about what is around a mistake; the user wants to hear that too. So what is wrong is taken out,
or replaced by something harmless, and the rest is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from admitd.problem import MOST_SHOWN, Keys, Problem, closest, show
from admitd.shape import FileShape, keys_of, shape_at
from admitd.yamlfile import Document

_HOST: Final = {"ram_reserved_mb": 0, "ram_safety_mb": 0}
_SERVICE: Final = {"ram_budget_mb": 1}
_PROBE: Final = {"url": "http://127.0.0.1/"}
_STAND_INS: Final[Mapping[str, object]] = {"hosts": {}, "services": {}, **_HOST, **_SERVICE, **_PROBE}
"""What stands where something required was wrong: the least that gives rise to no further complaint."""

_ROUNDS: Final = 4


def read_shape(document: Document) -> tuple[FileShape | None, list[Problem], frozenset[Keys]]:
    """The shape as far as it can be read, the problems, and where they are. None where nothing can be read."""
    problems: list[Problem] = []
    bad: set[Keys] = set()
    tree = document.value
    for _ in range(_ROUNDS):
        try:
            return FileShape.model_validate(tree), problems, frozenset(bad)
        except ValidationError as error:
            found = error.errors(include_url=False)
        for each in found:
            if each["loc"] not in bad:
                problems.append(_problem(document, each, suggest=len(problems) < MOST_SHOWN))
        if not isinstance(tree, dict):
            break
        tree = _without(tree, [each["loc"] for each in found])
        bad.update(each["loc"] for each in found)
    return None, problems, frozenset(bad)


def _problem(document: Document, error: Any, suggest: bool) -> Problem:
    keys, kind, value = error["loc"], error["type"], error["input"]
    if kind == "admit":
        written = _on_one_line(document.written.get(keys) or show(value))
        what, instead = (error["ctx"][part].replace("{written}", written) for part in ("what", "instead"))
    elif kind == "missing":
        what, instead = "is missing", _how_to_add(keys)
    elif kind == "extra_forbidden":
        what, instead = _unknown(keys, suggest)
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        said = "is empty" if value is None else f"{show(value)} is not a mapping"
        what, instead = said, _how_to_fill(keys)
    else:
        what, instead = error["msg"], "config/capacity.example.yaml shows how to write it"
    return document.problem(keys, what, instead)


def _on_one_line(text: str) -> str:
    return text if len(text) <= 40 and text.isprintable() else show(text)


def _how_to_add(keys: Keys) -> str:
    shape = shape_at(keys[:-1])
    key = str(keys[-1])
    example = keys_of(shape).get(key) if shape else None
    if isinstance(example, dict):
        return f"write {key}: and under it at least one name, as in config/capacity.example.yaml"
    description = next((f.description for n, f in shape.model_fields.items() if n == key), "") if shape else ""
    return f"write {key}: {example}, for example ({(description or '').rstrip('.')})"


def _how_to_fill(keys: Keys) -> str:
    shape = shape_at(keys)
    if shape is None:
        return "write names, each with its settings under it, as in config/capacity.example.yaml"
    required = [name for name, field in shape.model_fields.items() if field.is_required()]
    first = f"{required[0]}:" if required else next(iter(shape.model_fields)) + ":"
    return f"write its settings under it ({first} ...), or take the line out"


def _unknown(keys: Keys, suggest: bool) -> tuple[str, str]:
    shape = shape_at(keys[:-1])
    key = str(keys[-1])
    if shape is None or not suggest:
        return "is no key of this file", "take it out"
    known = keys_of(shape)
    meant = closest(key.lower().replace("-", "_"), known)
    if meant is not None:
        return f"{shape.what} has no such key", f"did you mean {meant}? Write {meant}, or take the line out"
    return f"{shape.what} has no such key", f"write one of {', '.join(known)}, or take the line out"


def _without(tree: dict[str, Any], places: Iterable[Keys]) -> dict[str, Any]:
    """`tree` without what stands at `places`; copies only what it changes."""
    copied: set[Keys] = set()
    tree = dict(tree)
    for keys in places:
        node: dict[str, Any] = tree
        last = next((i for i, key in enumerate(keys) if isinstance(key, int)), len(keys)) - 1
        for depth, key in enumerate(keys[:last]):
            inner = node.get(str(key))
            if not isinstance(inner, dict):
                break
            if keys[: depth + 1] not in copied:
                copied.add(keys[: depth + 1])
                inner = dict(inner)
                node[str(key)] = inner
            node = inner
        else:
            _take_out(node, keys[: last + 1])
    return tree


def _take_out(node: dict[str, Any], keys: Keys) -> None:
    key = str(keys[-1])
    around = shape_at(keys[:-1])
    if len(keys) == 2 and keys[0] in ("hosts", "services"):
        node[key] = dict(_HOST if keys[0] == "hosts" else _SERVICE)
    elif key in _STAND_INS and around is not None and key in keys_of(around):
        node[key] = _STAND_INS[key]
    else:
        node.pop(key, None)
