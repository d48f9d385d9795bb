#!/usr/bin/env python3
"""Writes docs/reference/ from what the program itself says: its command table, its OpenAPI, the schema of its file.

reference.py [--check]    --check writes nothing, and exits 1 where a page is not what it would write
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from admit_cli import grammar, table
from admit_cli.inside import Inside
from admitd import capacity, places, schemas

ROOT = Path(__file__).parents[2]
WHERE = ROOT / "docs" / "reference"
EXAMPLE = ROOT / "config" / "capacity.example.yaml"
PARTS = {
    "hosts.NAME": "HostShape",
    "services.NAME": "ServiceShape",
    "services.NAME.probe": "ProbeShape",
    "sentinel": "SentinelShape",
}
NOTE = "<!-- Written by scripts/docs; edit what it is written from. -->\n"


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {
        "cli.md": "\n".join(_cli()) + "\n",
        "http.md": "\n".join(_http()) + "\n",
        "capacity-yaml.md": "\n".join(_file()) + "\n",
    }


# The command line.


def _cli() -> Iterator[str]:
    yield f"{NOTE}\n# Commands\n"
    yield "Every command takes `--config FILE` and `-h`, before or behind its own options. What a program reads takes"
    yield "`--json`. Exit codes: 0 done, 2 refused (and nothing else is 2); `admit --help` has the rest.\n"
    for command in table.COMMANDS:
        yield f"## admit {' '.join(command.path)}\n"
        yield f"{command.help}\n"
        yield "```console"
        yield from (f"$ {example}" for example in command.examples)
        yield "```\n"
        rows = [(_shown(each), each.help) for each in command.arguments]
        rows += [(f"{each.flag} {each.metavar}".rstrip(), each.help) for each in command.options]
        yield from _table((" ", " "), [(f"`{name}`", _cell(told)) for name, told in rows])


def _shown(argument: grammar.Argument) -> str:
    name = argument.metavar + ("..." if argument.many or argument.rest else "")
    return f"-- {name}" if argument.rest else name


# HTTP.


def _http() -> Iterator[str]:
    described = _openapi()
    yield f"{NOTE}\n# HTTP\n"
    yield f"{described['info']['description']} The same, for programs: `GET /openapi.json`.\n"
    yield "Bodies are JSON. An error is `application/problem+json` (RFC 9457) at every door. What acts on processes"
    yield "needs the token of the daemon's user, `Authorization: Bearer ...`: the file `token` in its state folder.\n"
    yield "Any request may be answered with one of these:\n"
    everywhere = sorted(schemas.EVERYWHERE.items())
    yield from _table(("answer", ""), [(f"`{code}`", _cell(told)) for code, (told, _) in everywhere])
    shapes = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{told['description']}\n"
            if told.get("security"):
                yield "Needs the token.\n"
            yield from _taken(told, shapes)
            answers = [each for each in sorted(told["responses"].items()) if int(each[0]) not in schemas.EVERYWHERE]
            rows = [(f"`{code}`", _cell(answer["description"]), _types(_bodies(answer))) for code, answer in answers]
            yield from _table(("answer", "", "body"), rows)
    yield from _answered(described)


def _openapi() -> dict[str, Any]:
    """As the application itself answers, in this process, in a home of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "capacity.yaml"
        file.write_bytes(EXAMPLE.read_bytes())
        file.chmod(0o600)
        os.environ |= {"HOME": folder, "XDG_STATE_HOME": folder, "ADMIT_STATE_DIR": folder}
        described: dict[str, Any] = Inside(str(file), places.PORT).ask("GET", "/openapi.json", None).json()
        return described


def _taken(told: Mapping[str, Any], shapes: Mapping[str, Any]) -> Iterator[str]:
    taken = told.get("parameters", ())
    rows = [(f"`{each['name']}`", each["in"], _cell(each.get("description", ""))) for each in taken]
    content = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    shape = shapes.get(content.get("$ref", "").rpartition("/")[2], content)
    for name, field in shape.get("properties", {}).items():
        needed = "body, required" if name in shape.get("required", ()) else "body"
        rows.append((f"`{name}`", needed, _cell(field.get("description", ""))))
    if rows:
        yield from _table(("", "in", ""), rows)


def _bodies(answer: Mapping[str, Any]) -> list[Any]:
    """The schemas of what an answer may hold in JSON."""
    content = answer.get("content", {})
    return [each.get("schema", {}) for kind, each in sorted(content.items()) if kind.endswith("json")]


def _answered(described: Mapping[str, Any]) -> Iterator[str]:
    """Every shape that an answer has, and those inside of these, once."""
    shapes = described["components"]["schemas"]
    operations = [told for methods in described["paths"].values() for told in methods.values()]
    open_ones = [body for told in operations for answer in told["responses"].values() for body in _bodies(answer)]
    found: set[str] = set()
    while open_ones:
        for name in _named(open_ones.pop()) - found:
            found.add(name)
            open_ones.append(shapes[name])
    yield "## What is answered\n"
    yield "Every field that is not marked is always there; a reader must pass over fields that it does not know.\n"
    for name in sorted(found):
        shape = shapes[name]
        yield f"### {name}\n"
        yield f"{_cell(shape.get('description', ''))}\n"
        if "properties" not in shape:
            yield f"{_type(shape)}\n"
            continue
        rows = []
        for field, about in shape["properties"].items():
            mark = "" if field in shape.get("required", ()) else " (not always)"
            rows.append((f"`{field}`{mark}", _type(about), _cell(about.get("description", ""))))
        yield from _table(("field", "type", ""), rows)


def _named(schema: Any) -> set[str]:
    """The shapes that a schema names, however deep inside."""
    if isinstance(schema, list):
        return set().union(*map(_named, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(_named, schema.values()))


def _types(each_may_be: list[Any]) -> str:
    return " or ".join(_type(each) for each in each_may_be)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return _types(schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"names, each with {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "anything"))


# The file.


def _file() -> Iterator[str]:
    schema = capacity.json_schema()
    yield f"{NOTE}\n# capacity.yaml\n"
    yield "Every key. `MB` means MiB. An editor that knows the schema (`admit config schema`) completes and checks it;"
    yield "`admit config check` reports every problem at once, with its line and what to write instead.\n"
    yield from _keys("The file", schema, schema)
    for title, shape in PARTS.items():
        yield from _keys(title, schema["$defs"][shape], schema)


def _keys(title: str, shape: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    if shape.get("description") and shape is not schema:
        yield f"{_cell(shape['description'])}\n"
    rows = []
    for name, field in shape.get("properties", {}).items():
        needed = "required" if name in shape.get("required", ()) else _default(field)
        rows.append((f"`{name}`", needed, _cell(field.get("description", ""))))
    yield from _table(("key", "default", ""), rows)


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# Markdown.


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Write, or check."""
    check = sys.argv[1:] == ["--check"]
    WHERE.mkdir(parents=True, exist_ok=True)
    old = [name for name, text in pages().items() if not _is(WHERE / name, text)]
    if check:
        for name in old:
            print(f"docs/reference/{name} is not what it would be now; run scripts/docs", file=sys.stderr)
        return 1 if old else 0
    for name, text in pages().items():
        (WHERE / name).write_text(text)
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
