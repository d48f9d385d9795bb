"""What only some need: the command that installs it is whole, and is meant for the environment that misses it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from admitd import extras
from admitd.capacity import json_schema

ROOT = Path(__file__).parents[1]
OF_THE_INDEX = re.compile(r"(?:pip|pipx|uv tool) install ['\"]?admit\b")


def test_they_are_those_of_the_project() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, needs in declared.items():
        here = [need.partition(";") for need in needs]
        assert extras.NEEDS[name] == tuple(
            need for need, _, marker in here if not marker or repr(sys.platform) in marker
        ), name
    assert extras.NEEDS.keys() == declared.keys()


def test_the_interpreter_that_misses_it_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/me/my tools/python")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert extras.install("notify") == "'/home/me/my tools/python' -m pip install 'apprise>=1.9'"


def test_where_it_has_no_pip_uv_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = shlex.split(extras.install("hub"))
    assert words == ["uv", "pip", "install", "--python", sys.executable, "huggingface-hub>=1"]


@pytest.mark.parametrize("name", sorted(extras.NEEDS))
def test_the_page_names_it(name: str) -> None:
    page = (ROOT / "docs/installing.md").read_text()
    section = re.search(r"^## Extras\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    assert section is not None and f"| `{name}` |" in section[1]


def test_nobody_is_sent_to_an_index_for_this_project() -> None:
    """It is on none; whoever took its name there would be installed by our own advice."""
    files = [path for folder in ("admitd", "admit_cli", "admit_sdk") for path in (ROOT / folder).rglob("*.py")]
    files += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "config").rglob("*.yaml"), ROOT / "README.md"]
    assert [path.name for path in files if OF_THE_INDEX.search(path.read_text())] == []
    assert not OF_THE_INDEX.search(str(json_schema()))
