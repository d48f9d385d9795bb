"""service: `admit service add|edit|remove`: one entry of capacity.yaml, changed in place, comments and all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from admit_cli import ownyaml, render
from admit_cli.door import BadSetting, NoService
from admit_cli.init import eyes_of_this_machine
from admit_cli.tell import out, printable, tell
from admitd import changing, fromcommand, yamlfile, yamlscalar
from admitd.changing import Put, Remove
from admitd.core import wire
from admitd.core.terms import Service
from admitd.problem import ConfigError, Keys, closest, show

TEXTS: Final = frozenset({"process_pattern", "program", "probe.url", "probe.method"})
COMMANDS: Final = frozenset({"load_cmd", "unload_cmd", "loaded_check_cmd"})
LISTS: Final = frozenset({"exclusive_with"})
PLACEHOLDERS: Final = re.compile(r"\.\.\.|\u2026|<[^<>]*>|\[\.\.\.\]")
"""What stands in examples for a value, as a whole."""


def add(values: dict[str, Any]) -> int:
    """Declare a service that the file does not declare yet; the exit code."""
    name, path = values["name"], ownyaml.find(values["config"])
    declared = ownyaml.load(path).services
    if name in declared:
        raise BadSetting(f"{path} declares {name} already; to change it: admit service edit {name} KEY=VALUE")
    entry: dict[str, Any] = {}
    for keys, value in pairs(values["keys"]):
        if value is None:
            raise BadSetting(f"{'.'.join(keys)}= says nothing; leave it out, and it has its default")
        _put(entry, keys, value)
    _fill_in(entry, list(declared.values()))
    return _change(path, name, [Put(("services", name), entry)], "declared", values["json"])


def _fill_in(entry: dict[str, Any], declared: list[Service]) -> None:
    """What is missing, as far as its load_cmd tells it, and say so; what the user wrote stays."""
    is_matched = "process_pattern" in entry or "loaded_check_cmd" in entry
    command = entry.get("load_cmd")
    is_command = isinstance(command, str) or (isinstance(command, list) and all(isinstance(w, str) for w in command))
    if not command or not is_command or (is_matched and "ram_budget_mb" in entry):
        return
    told = fromcommand.told(command, eyes_of_this_machine(), declared)
    if told is None:
        return
    matching = {"process_pattern", "program"} if is_matched else set()
    missing = {key: value for key, value in told.keys.items() if key not in matching and key not in entry}
    entry.update(missing)
    why = f"; the budget: {told.why}" if "ram_budget_mb" in missing else ""
    tell(printable(f"admit: from its load_cmd, as {told.engine} has it: {', '.join(missing)}{why}"))


def edit(values: dict[str, Any]) -> int:
    """Change some keys of a service, or take them out; the exit code."""
    name, path = values["name"], ownyaml.find(values["config"])
    _declared(path, name)
    changes: list[Put | Remove] = []
    for keys, value in pairs(values["keys"]):
        place = ("services", name, *keys)
        changes.append(Remove(place) if value is None else Put(place, value))
    return _change(path, name, changes, "changed", values["json"])


def remove(values: dict[str, Any]) -> int:
    """Take a service out of the file, with the comment above it; the exit code."""
    name, path = values["name"], ownyaml.find(values["config"])
    _declared(path, name)
    return _change(path, name, [Remove(("services", name))], "removed", values["json"])


def pairs(words: list[str]) -> list[tuple[tuple[str, ...], Any]]:
    """KEY=VALUE... as keys and values; None for `KEY=`, which takes it out. Raises BadSetting."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for word in words:
        key, equals, text = word.partition("=")
        keys = tuple(key.split("."))
        if not equals or not all(keys):
            raise BadSetting(f"{show(word)} is no KEY=VALUE; write ram_budget_mb=14000, for example")
        if keys in [each for each, _ in found]:
            raise BadSetting(f"{key} stands there twice; write it once")
        if PLACEHOLDERS.fullmatch(text.strip()) or (key == "program" and text.strip() == "NAME"):
            raise BadSetting(f"{word} stands for a value, and is none; write the value itself")
        found.append((keys, _value(key, text) if text else None))
    return found


def _value(key: str, text: str) -> Any:
    if key in TEXTS or (key in COMMANDS and not text.startswith("[")):
        return text
    if key in LISTS and not text.startswith("["):
        return [each.strip() for each in text.split(",") if each.strip()]
    if text.startswith(("[", "{", '"', "'")):
        try:
            return yamlfile.read(text.encode("utf-8", "surrogateescape"), key).value
        except ConfigError as error:
            raise BadSetting(f"{key}: {error.problems[0].what}; {error.problems[0].instead}") from None
    try:
        return yamlscalar.as_written(text)
    except yamlscalar.NotThatType as problem:
        raise BadSetting(f"{key}: {problem}; {problem.instead}") from None


def _put(entry: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        entry = entry.setdefault(str(key), {})
        if not isinstance(entry, dict):
            raise BadSetting(f"{key} has a value already, and can't hold {keys[-1]} as well")
    entry[str(keys[-1])] = value


def _declared(path: Path, name: str) -> None:
    services = ownyaml.load(path).services
    if name not in services:
        near = closest(name, services)
        raise NoService(f"{path} declares no service {name!r}." + (f" Did you mean {near}?" if near else ""))


def _change(path: Path, name: str, changes: Sequence[Put | Remove], what: str, as_json: bool) -> int:
    done = changing.change(path, changes, ownyaml.load)
    before, after = done.before.splitlines(), done.after.splitlines()
    shown = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    if as_json:
        render.print_json({"file": str(path), "service": name, "line": min(done.lines), "diff": shown})
    else:
        out(f"{path}:{min(done.lines)}: {name} {what}" if shown else f"{path}: {name} was like that already")
        for line in shown:
            if not line.startswith("@@"):
                out(f"  {printable(line)}")
    return wire.OK
