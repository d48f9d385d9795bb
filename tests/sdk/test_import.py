"""What an app pays for `import admit_sdk`, what it gets by that, and that type checkers see the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import admit_sdk
from tests.daemons import ROOT

HEAVY = {
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "asyncio",
    "typer",
    "yaml",
    "re2",
    "mlx",
    "onnxruntime",
    "numpy",
}
FOLDER = ROOT / "admit_sdk"


def imported_by(code: str) -> set[str]:
    """The modules that are there once a new Python has run `code`, beyond those of a bare one."""
    show = "import sys; print(*sys.modules)"
    said = [
        subprocess.run(
            [sys.executable, "-c", f"{each}\n{show}"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for each in ("", code)
    ]
    return set(said[1].split()) - set(said[0].split())


def test_importing_it_imports_nothing_else() -> None:
    assert imported_by("import admit_sdk") == {"admit_sdk"}


@pytest.mark.parametrize("name", ["MemoryGovernor", "Citizen", "BufferPool"])
def test_a_governor_comes_without_a_web_server_and_without_the_daemon(name: str) -> None:
    found = imported_by(f"from admit_sdk import {name}")
    assert "admitd.core.verdict" in found  # the rules are the daemon's own
    assert not HEAVY & {each.partition(".")[0] for each in found}
    assert not {each for each in found if each.startswith(("admitd.daemon", "admitd.api", "admitd.gate", "admit_cli"))}


def test_the_names_are_those_that_a_type_checker_sees() -> None:
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    seen = {
        alias.asname: f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("typing", "importlib")
        for alias in node.names
    }
    assert sorted(admit_sdk.__all__) == sorted(name for name in seen if name)
    for name in admit_sdk.__all__:
        assert getattr(admit_sdk, name) is not None
        assert name in dir(admit_sdk)
    with pytest.raises(AttributeError, match="module 'admit_sdk' has no attribute 'Manager'"):
        admit_sdk.Manager  # noqa: B018


def test_it_is_typed() -> None:
    assert (FOLDER / "py.typed").is_file()
    assert "admit_sdk" in Path(ROOT, "pyproject.toml").read_text().split("[tool.hatch.build.targets.wheel]")[1]
