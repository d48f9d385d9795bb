"""yamlfile: the text of a YAML file -> a plain tree that remembers its lines. Only YAML's own problems live here.

Written on the parser's events, not on its constructor: so nesting, size and aliases are bounded before anything is
built, duplicate keys are seen, and no value turns into something that the user did not write (a date stays text).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from admitd.problem import ConfigError, Keys, Problem, show, spell
from admitd.yamlscalar import NotThatType, as_tagged, as_written, short_tag
from admitd.yamltext import decode, explain

MOST_BYTES: Final = 1 << 20
MOST_NODES: Final = 100_000
DEEPEST: Final = 32

_STR: Final = "tag:yaml.org,2002:str"
_COLLECTION_TAGS: Final = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "!", None}


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content. `written` holds the text of the values that are not text: `yes` where the value is True."""

    file: str
    value: object
    lines: Mapping[Keys, int]
    written: Mapping[Keys, str]

    def line(self, keys: Keys) -> int:
        """The line of `keys`, or of the nearest thing around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)

    def problem(self, keys: Keys, what: str, instead: str) -> Problem:
        return Problem(self.file, spell(keys), self.line(keys), what, instead)


@dataclass(slots=True)
class _Scalar:
    line: int
    value: object
    written: str
    is_merge: bool = False


@dataclass(slots=True)
class _Sequence:
    line: int
    items: list[_Node] = field(default_factory=list)
    closed: bool = False


@dataclass(slots=True)
class _Mapping:
    line: int
    items: list[_Node] = field(default_factory=list)  # key, value, key, value
    closed: bool = False


_Node = _Scalar | _Sequence | _Mapping


def read(data: bytes, file: str) -> Document:
    """The tree of `data`. ConfigError with every problem that can be told apart from its consequences."""
    if len(data) > MOST_BYTES:
        what = f"is larger than {MOST_BYTES} bytes (1 MiB), which no list of services needs"
        raise ConfigError([Problem(file, "", 0, what, "write a shorter file")])
    text = decode(data, file)
    builder = _Builder(file)
    root = builder.build(text)
    plain = _Plain(file, builder.problems)
    value = plain.convert(root, ())
    if plain.problems:
        raise ConfigError(plain.problems)
    return Document(file, value, plain.lines, plain.written)


class _Builder:
    """Events -> nodes, with shared nodes for aliases: small in memory whatever the aliases expand to."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, _Node] = {}
        self._open: list[_Sequence | _Mapping] = []
        self._count = 0
        self.problems: list[Problem] = []

    def build(self, text: str) -> _Node:
        import yaml

        root: _Node | None = None
        documents = 0
        try:
            for event in _events(text):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._stop(event, "a second document begins here", "take the '---' line out: one file, one")
                elif isinstance(event, yaml.NodeEvent):
                    node = self._node(event)
                    root = root or node
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._open.pop().closed = True
        except yaml.YAMLError as error:
            raise ConfigError([*self.problems, explain(error, text, self._file)]) from None
        if root is None:
            what, instead = "is empty", "write hosts: and services: (config/capacity.example.yaml shows how)"
            raise ConfigError([Problem(self._file, "", 0, what, instead)])
        return root

    def _node(self, event: Any) -> _Node:
        import yaml

        self._count += 1
        if self._count > MOST_NODES:
            self._stop(event, f"more than {MOST_NODES} values", "write a shorter file")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        else:
            node = self._collection(event)
        if self._open and (not isinstance(node, _Sequence | _Mapping) or isinstance(event, yaml.AliasEvent)):
            self._open[-1].items.append(node)
        return node

    def _alias(self, event: Any) -> _Node:
        node, name = self._anchors.get(event.anchor), event.anchor[:60]
        if node is None:
            self._stop(event, f"*{name} stands for nothing", f"write &{name} before it, or the value")
        if not isinstance(node, _Scalar) and not node.closed:
            self._stop(event, f"*{name} stands inside what it stands for", "write the value itself")
        return node

    def _scalar(self, event: Any) -> _Scalar:
        line, text = event.start_mark.line + 1, event.value
        plain = event.implicit[0] and event.tag is None
        value: object = text
        try:
            if plain:
                value = as_written(text)
            elif event.tag not in (None, "!", _STR):
                value = as_tagged(event.tag, text)
        except NotThatType as error:
            self.problems.append(Problem(self._file, "", line, str(error), error.instead))
        node = _Scalar(line, value, text, is_merge=plain and text == "<<")
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _collection(self, event: Any) -> _Sequence | _Mapping:
        import yaml

        line = event.start_mark.line + 1
        if len(self._open) >= DEEPEST:
            self._stop(event, f"nested more than {DEEPEST} deep", "write it flatter")
        if event.tag not in _COLLECTION_TAGS:
            what = f"the tag {show(short_tag(event.tag))} has no meaning here"
            self.problems.append(Problem(self._file, "", line, what, "take the tag out"))
        node = _Mapping(line) if isinstance(event, yaml.MappingStartEvent) else _Sequence(line)
        if event.anchor:
            self._anchors[event.anchor] = node
        if self._open:
            self._open[-1].items.append(node)
        self._open.append(node)
        return node

    def _stop(self, event: Any, what: str, instead: str) -> NoReturn:
        line = event.start_mark.line + 1
        raise ConfigError([*self.problems, Problem(self._file, "", line, what, instead)])


def _events(text: str) -> Iterator[Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
            if isinstance(event, yaml.StreamEndEvent):
                return
    finally:
        loader.dispose()


class _Plain:
    """Nodes -> plain values, counting what aliases expand to."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self._file = file
        self._count = 0
        self.problems = problems
        self.lines: dict[Keys, int] = {}
        self.written: dict[Keys, str] = {}

    def convert(self, node: _Node, keys: Keys) -> object:
        self._count_one(node, keys)
        self.lines.setdefault(keys, node.line)
        if isinstance(node, _Scalar):
            if not isinstance(node.value, str):
                self.written[keys] = node.written
            return node.value
        if isinstance(node, _Sequence):
            return [self.convert(item, (*keys, index)) for index, item in enumerate(node.items)]
        return self._mapping(node, keys)

    def _mapping(self, node: _Mapping, keys: Keys) -> dict[str, object]:
        out: dict[str, object] = {}
        pairs, merged = self._own_pairs(node, keys), self._merged_pairs(node, keys)
        for key, (line, value) in {**merged, **pairs}.items():
            self.lines[(*keys, key)] = line
            out[key] = self.convert(value, (*keys, key))
        return out

    def _own_pairs(self, node: _Mapping, keys: Keys) -> dict[str, tuple[int, _Node]]:
        pairs: dict[str, tuple[int, _Node]] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if isinstance(key, _Scalar) and key.is_merge:
                continue
            if not isinstance(key, _Scalar):
                kind = "list" if isinstance(key, _Sequence) else "mapping"
                self._problem(key.line, keys, f"a {kind} cannot be a key", "write a name")
            elif not isinstance(key.value, str):
                what = f"as a key, {show(key.written)} is not text: YAML reads it as {show(key.value)}"
                self._problem(key.line, keys, what, f"quote it: write {show(key.written)}")
            elif key.value in pairs:
                first = pairs[key.value][0]
                what = f"stands here on line {key.line} and already on line {first}"
                self._problem(key.line, (*keys, key.value), what, "write it once")
            else:
                pairs[key.value] = (key.line, value)
        return pairs

    def _merged_pairs(self, node: _Mapping, keys: Keys) -> dict[str, tuple[int, _Node]]:
        """What `<<: *other` brings in. The earlier of two sources wins, as YAML says."""
        out: dict[str, tuple[int, _Node]] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if not (isinstance(key, _Scalar) and key.is_merge):
                continue
            for source in value.items if isinstance(value, _Sequence) else [value]:
                if not isinstance(source, _Mapping):
                    self._problem(key.line, keys, "<< takes in mappings only", "write <<: *name-of-a-mapping")
                    continue
                self._count_one(source, keys, len(source.items))
                inner = {**self._merged_pairs(source, (*keys, "<<")), **self._own_pairs(source, keys)}
                for name, pair in inner.items():
                    out.setdefault(name, pair)
        return out

    def _problem(self, line: int, keys: Keys, what: str, instead: str) -> None:
        problem = Problem(self._file, spell(keys), line, what, instead)
        if problem not in self.problems[-20:]:  # a merged mapping is read once more for each place that takes it in
            self.problems.append(problem)

    def _count_one(self, node: _Node, keys: Keys, more: int = 0) -> None:
        self._count += 1 + more
        if self._count > MOST_NODES:
            what = f"the aliases (*name) here expand to more than {MOST_NODES} values"
            raise ConfigError([Problem(self._file, spell(keys[:4]), node.line, what, "write the values themselves")])
        if len(keys) > DEEPEST:
            what = f"the aliases (*name) here nest more than {DEEPEST} deep"
            raise ConfigError([Problem(self._file, spell(keys[:4]), node.line, what, "write the values themselves")])
