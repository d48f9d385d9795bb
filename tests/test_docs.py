"""What the README and the docs say exists, exists: commands, options, exit codes, files, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from admit_cli import table
from admit_cli.main import parse
from admitd import engines, places
from admitd.core import wire
from admitd.core.verdict import Reason

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A link to a file of this project names one that is there."""
    text = re.sub(r"`[^`\n]*`", "", page.read_text())  # a pattern in code may look like a link
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def inline_commands(text: str) -> list[str]:
    """Whatever stands in backticks or behind a $ and begins with `admit`."""
    found = re.findall(r"`(admit [^`]+)`", text) + re.findall(r"^\$ (admit [^#\n]+)", text, re.MULTILINE)
    return [command.strip() for command in found if "NAME" not in command and "[" not in command and "X" not in command]


@pytest.mark.parametrize("command", sorted(set(inline_commands(text_of("README.md")))))
def test_every_command_of_the_readme_is_one(command: str) -> None:
    """It parses, by the same table that runs it."""
    words = shlex.split(command)[1:]
    assert parse(words) is not None or words[0] in ("--install-completion", "--version")


@pytest.mark.parametrize("page", ["docs/first-file.md", "docs/doctor.md"])
def test_every_command_of_these_pages_is_one(page: str) -> None:
    for command in inline_commands(text_of(page)):
        assert parse(shlex.split(command)[1:]) is not None, command


@pytest.mark.parametrize("path", ["init", "doctor", "service add", "service edit", "service remove"])
def test_what_makes_a_file_is_in_the_page_about_it(path: str) -> None:
    assert f"admit {path}" in text_of("docs/first-file.md")


def test_every_engine_is_in_the_page_about_the_first_file() -> None:
    for engine in engines.ENGINES:
        assert engine.title in text_of("docs/first-file.md")


@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda each: each.key)
def test_every_engine_has_a_page_and_a_recipe(engine: engines.Engine) -> None:
    """What `admit init` can find, somebody wants to read about: what it does, and whether it was tried."""
    name = {"dockerd": "docker"}.get(engine.key, engine.key)
    page = text_of(f"docs/engines/{name}.md")
    assert engine.title in page
    assert f'"config/recipes/{name}.yaml"' in page
    assert "run by the tests of this project" in page or "not run here" in page or "Neither was run here" in page
    assert f"engines/{name}.md" in text_of("mkdocs.yml")


def test_utm_is_in_the_page_about_virtual_machines() -> None:
    """It is drafted as qemu is, by other commands."""
    assert "utmctl stop --request" in text_of("docs/engines/qemu.md")


def test_every_command_is_in_the_readme() -> None:
    """A command that the README does not show does not exist for a new user."""
    readme = text_of("README.md")
    missing = [" ".join(command.path) for command in table.COMMANDS if f"admit {' '.join(command.path)}" not in readme]
    assert not missing


def test_the_exit_codes_are_those_of_the_code() -> None:
    """README's table, the code's constants and the help's last line say the same."""
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", text_of("README.md"), re.MULTILINE)}
    codes = {wire.OK, wire.FAILED, wire.REFUSED, wire.USAGE, wire.NO_SUCH, wire.NO_DAEMON, wire.TIMED_OUT}
    assert rows == codes | {wire.BAD_CONFIG}


def test_the_port_is_the_one_in_the_readme() -> None:
    """Two numbers that must not drift."""
    assert f"127.0.0.1:{places.PORT}" in text_of("README.md")


def test_every_reason_has_its_section() -> None:
    """The `type` of a refusal links to docs/refusals.md#REASON."""
    sections = set(re.findall(r"^## (\S+)", text_of("docs/refusals.md"), re.MULTILINE))
    assert sections >= {reason.value for reason in Reason}


def test_the_architecture_names_files_that_exist() -> None:
    """Docs that name files are only good while they name the right ones."""
    named = set(re.findall(r"`((?:admitd|admit_cli|tests)/[\w/.]+)`", text_of("docs/ARCHITECTURE.md")))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert named
    assert not missing


def test_every_recipe_is_linked() -> None:
    """A recipe that nobody finds is no recipe."""
    readme = text_of("README.md")
    assert all(f"config/recipes/{recipe.name}" in readme for recipe in (ROOT / "config/recipes").glob("*.yaml"))


def test_the_architecture_names_each_part_once() -> None:
    rows = re.findall(r"^\| (`.+?) \|", text_of("docs/ARCHITECTURE.md"), re.MULTILINE)
    assert len(rows) == len(set(rows)) > 20
