"""scripts/quickstart where there is Python and nothing else: no root, no ps, no apt-get, no tools of the tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wheels
from tests.live.servers import Servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # an installer on a slow machine, then the whole story

ROOT = Path(__file__).parents[2]
# What the two scripts run, all of it in every Linux and macOS. Neither git nor ps is among them.
TOOLS = ("sh", "dirname", "cat", "cksum", "grep", "rm")
SHIPPED = ("admitd", "admit_cli", "admit_sdk", "completions", "config", "launchd", "man", "requirements", "scripts")
SINGLE = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a checkout has, without an environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in (*SHIPPED, "systemd"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SINGLE:
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def names(file: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+==[^ ;]+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE))


def test_the_quickstart_needs_python_alone(servers: Servers, checkout: Path, tmp_path: Path) -> None:
    """The script itself, from a bare checkout to the end of its story; then `.venv` holds its part of the lock."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for tool in TOOLS:
        (bare / tool).symlink_to(shutil.which(tool) or tool)
    environ = {**servers.env, **wheels.settings(tmp_path), "PATH": str(bare), "PYTHON": wheels.PYTHON}
    environ.pop("PYTHONPATH", None)
    story = servers.start(checkout / "scripts/quickstart", env=environ, cwd=tmp_path)
    code = story.wait(timeout=380)
    told = servers.log(story)
    wheels.skip_unreachable(code, told)
    assert code == 0, told
    assert "nothing was left running" in told
    asked = [checkout / ".venv/bin/uv", "pip", "freeze", "--python", checkout / ".venv/bin/python"]
    there = subprocess.run(asked, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    installed = {line for line in there.stdout.split() if "==" in line}
    installed = {each for each in installed if not each.startswith(("pip==", "setuptools=="))}  # every venv has them
    assert installed - names("uv.txt") <= names("quickstart.txt")
    assert any(each.startswith("mlx-lm==") for each in installed)


def test_an_environment_that_a_link_leads_to_is_left_as_it_is(checkout: Path, tmp_path: Path) -> None:
    """Two checkouts may share one: made anew from the second, it would be gone for the first."""
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (checkout / ".venv").symlink_to(other)

    def setup() -> tuple[int, str]:
        done = subprocess.run([checkout / "scripts/setup"], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    assert setup() == (1, "scripts/setup: the link .venv leads to no environment; remove it, then run this again.\n")
    (other / "bin" / "python").symlink_to(sys.executable)
    assert setup() == (0, "scripts/setup: .venv is a link, and what it leads to is left as it is\n")
    assert [path.name for path in other.rglob("*")] == ["bin", "python"]


def test_the_quickstart_is_a_part_of_the_whole_lock() -> None:
    """So that a checkout that has everything has it, and scripts/setup leaves it as it is."""
    assert names("run.txt") <= names("quickstart.txt") <= names("dev.txt")
