"""splicing: changes one place of a YAML text; every other byte stays as it was, comments and all.

A library that writes the whole file anew keeps most comments and changes spaces and line ends: ruamel.yaml folds long
commands, and with an entry it takes the comment of the one below. Here the file is only cut open where something
changes. What cannot be cut safely (aliases, tags) is refused. The caller compares what the text meant before and after:
nothing here needs to be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from admitd import yamlwrite
from admitd.problem import Keys, spell

STEP: Final = 2


class CannotCut(Exception):
    """The place can't be changed by a program; the text says why."""


@dataclass(frozen=True, slots=True)
class Put:
    """Make `value` what stands at `keys`. `lines`: how a new entry is written, where it gets lines of its own;
    `only_there`: it must be there."""

    keys: Keys
    value: Any
    lines: tuple[str, ...] = ()
    only_there: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Take the entry at `keys` out, with the comment right above it."""

    keys: Keys


Change = Put | Remove


def apply(text: str, change: Change) -> tuple[str, int]:
    """The new text, and the line (from 1) at which it differs. Raises CannotCut."""
    root = _compose(text)
    *above, last = change.keys
    parent = root
    for depth, key in enumerate(above):
        below = _entry(parent, str(key))
        if below is None:
            if isinstance(change, Remove) or change.only_there:
                raise CannotCut(f"does not say it in {_place(tuple(above))} itself")
            value = change.value
            for name in reversed(change.keys[depth + 1 :]):
                value = {str(name): value}
            return _insert(text, parent, str(key), value, ())
        parent = below[1]
    found = _entry(parent, str(last))
    if isinstance(change, Remove):
        if found is None:
            raise CannotCut(f"does not say it in {_place(tuple(above))} itself")
        return _take_out(text, parent, *found)
    if found is not None:
        return _replace(text, found[0], found[1], change.value)
    if change.only_there:
        raise CannotCut(f"does not say it in {_place(tuple(above))} itself")
    return _insert(text, parent, str(last), change.value, change.lines)


def _place(keys: Keys) -> str:
    return spell(keys) if keys else "the file"


def _compose(text: str) -> Any:
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise CannotCut("is not plain YAML in UTF-8") from None


def _entry(node: Any, key: str) -> tuple[Any, Any] | None:
    """Key and value; None where there is none, or where the value is an alias for what stands elsewhere."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise CannotCut("does not hold a mapping there")
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            ahead = value.start_mark.index >= name.end_mark.index and value.end_mark.index <= node.end_mark.index
            if not ahead:
                raise CannotCut("has an alias there")
            return name, value
    return None


def _end(text: str, node: Any) -> int:
    """Where a node's own text ends: a block's marks go on until the next token, over blank lines and comments."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        if node.style in ("|", ">"):
            return node.start_mark.index + len(text[node.start_mark.index : node.end_mark.index].rstrip())
        return int(node.end_mark.index)
    if node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    if isinstance(last, tuple):
        key, value = last
        return max(_end(text, key), _end(text, value))
    return _end(text, last)


def _line_end(text: str, at: int) -> int:
    """The newline that ends the line, or the end of the text."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _number(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _replace(text: str, key: Any, node: Any, value: Any) -> tuple[str, int]:
    import yaml

    start, end = node.start_mark.index, _end(text, node)
    old = text[start:end]
    if old.startswith(("&", "!", "*")):
        raise CannotCut(f"has more than a plain value on line {node.start_mark.line + 1}")
    new = yamlwrite.scalar(value)
    if not isinstance(node, yaml.ScalarNode) and not node.flow_style:
        if "#" in old:
            raise CannotCut(f"has comments inside the value on line {node.start_mark.line + 1}")
        start = text.index(":", key.end_mark.index) + 1
        new = f" {new}"
    elif start == end:
        new = f" {new}"
    return text[:start] + new + text[end:], _number(text, start)


def _insert(text: str, parent: Any, key: str, value: Any, lines: Sequence[str]) -> tuple[str, int]:
    """Put a new entry at the end of a mapping."""
    import yaml

    if not isinstance(parent, yaml.MappingNode):
        raise CannotCut("does not hold a mapping there")
    if parent.flow_style and (parent.value or not _alone_on_its_line(text, parent)):
        end = parent.end_mark.index - 1
        if parent.value:
            end = _end(text, parent.value[-1][1])
        flow = yamlwrite.scalar({key: value})[1:-1]
        return text[:end] + (", " if parent.value else "") + flow + text[end:], _number(text, end)
    newline = _newline(text)
    if parent.flow_style:  # `services: {}`: opened up
        line = text.rfind("\n", 0, parent.start_mark.index) + 1
        indent = len(text[line:]) - len(text[line:].lstrip(" ")) + STEP
        block = newline + newline.join(_block(key, value, indent, lines))
        start, end = parent.start_mark.index, parent.end_mark.index
        stop = _line_end(text, end)
        rest = text[end:stop].rstrip("\r")
        return text[:start].rstrip(" ") + rest + block + text[end + len(rest) :], _number(text, start) + 1
    indent = parent.value[0][0].start_mark.column
    at = _after(text, _end(text, parent), indent)
    gap = [""] if lines else []
    block = newline.join(["", *gap, *_block(key, value, indent, lines)])
    return text[:at] + block + text[at:], _number(text, at) + 1 + len(gap)


def _alone_on_its_line(text: str, node: Any) -> bool:
    """An empty `{}` behind a key, which may become a block; not one inside other brackets."""
    stop = _line_end(text, node.end_mark.index)
    rest = text[node.end_mark.index : stop].strip()
    line = text[text.rfind("\n", 0, node.start_mark.index) + 1 : node.start_mark.index]
    return (not rest or rest.startswith("#")) and "{" not in line and "[" not in line


def _after(text: str, end: int, indent: int) -> int:
    """Where a mapping's next entry goes: behind the line on which it ends, and behind the comments that stand deeper
    than its keys: they belong to its last entry."""
    at = _line_end(text, end)
    while at < len(text):
        stop = _line_end(text, at + 1)
        line = text[at + 1 : stop].rstrip("\r")
        deep = len(line) - len(line.lstrip(" "))
        if not line.lstrip().startswith("#") or deep <= indent:
            break
        at = stop
    return at - 1 if at > 0 and text[at - 1 : at] == "\r" else at


def _block(key: str, value: Any, indent: int, lines: Sequence[str]) -> list[str]:
    return [" " * indent + line if line else "" for line in lines] or yamlwrite.lines(key, value, indent)


def _take_out(text: str, parent: Any, key: Any, value: Any) -> tuple[str, int]:
    start, end = key.start_mark.index, _end(text, value)
    entries = parent.value
    place = next(index for index, (name, _) in enumerate(entries) if name is key)
    if parent.flow_style:
        if place + 1 < len(entries):
            end = entries[place + 1][0].start_mark.index
        elif place:
            start = _end(text, entries[place - 1][1])
        return text[:start] + text[end:], _number(text, start)
    if len(entries) == 1:
        return text[: parent.start_mark.index] + "{}" + text[end:], _number(text, start)
    line = text.rfind("\n", 0, start) + 1
    if text[line:start].strip():
        raise CannotCut(f"has something before {key.value} on line {key.start_mark.line + 1}")
    indent = key.start_mark.column
    at = _after(text, end, indent)
    while line > 0:
        before = text.rfind("\n", 0, line - 1) + 1
        comment = text[before:line]
        if not comment.lstrip(" ").startswith("#") or len(comment) - len(comment.lstrip(" ")) != indent:
            break
        line = before
    if place + 1 == len(entries):  # nothing follows: the blank line above goes as well
        while line > 0 and not text[text.rfind("\n", 0, line - 1) + 1 : line].strip():
            line = text.rfind("\n", 0, line - 1) + 1
    stop = _line_end(text, at)
    stop = stop + 1 if stop < len(text) else stop
    while place + 1 < len(entries) and stop < len(text) and not text[stop : _line_end(text, stop)].strip():
        stop = _line_end(text, stop) + 1  # one gap is left, the one above
    return text[:line] + text[stop:], _number(text, line)
