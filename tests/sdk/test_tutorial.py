"""The tutorial can be followed: its code is taken from the page and run, block by block, beside models made by it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from admit_sdk import backends
from admit_sdk.lifecycle import STEPS, State

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "sdk" / "tutorial.md"
REFERENCE = ROOT / "docs" / "sdk" / "models.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs_from_its_first_block_to_its_last(tmp_path: Path, mlx_model: Callable[..., Path]) -> None:
    """In one interpreter, as a reader would, with the two models of the page."""
    (tmp_path / "small").symlink_to(mlx_model())
    (tmp_path / "large").symlink_to(mlx_model("--mb", "97"))
    code = blocks(TUTORIAL, "python")
    assert len(code) >= 9
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ADMIT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code) + "\nprint('to its end')"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "ADMIT_PORT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("to its end\n")
    assert "ask small instead, its smaller variant" in done.stdout
    assert re.search(r"^\[memory \w+\]$", done.stdout, re.MULTILINE)


def test_the_commands_that_make_the_models_are_those_of_the_maker() -> None:
    (shell,) = blocks(TUTORIAL, "sh")
    made = re.findall(r"^python (scripts/gear/\S+) (\S+)", shell, re.MULTILINE)
    assert [name for _, name in made] == ["small", "large"]
    assert all((ROOT / script).is_file() for script, _ in made)


@pytest.mark.parametrize("state", State)
def test_the_reference_has_the_table_of_states(state: State) -> None:
    row = re.search(rf"^\| `{state}` \|.*\|(.*)\|$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    assert set(re.findall(r"`(\w+)`", row[1])) == {after for (before, _), after in STEPS.items() if before is state}


@pytest.mark.parametrize("name", backends.NAMES)
def test_the_reference_has_each_backend(name: str) -> None:
    _, _, capability, extra = backends.NAMES[name]
    row = next(line for line in REFERENCE.read_text(encoding="utf-8").splitlines() if f"| `{name}` |" in line)
    assert row.startswith(f"| `{capability.name}` |")
    assert f"| `{extra}` |" in row
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
