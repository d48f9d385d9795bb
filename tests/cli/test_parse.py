"""The short way and Typer are two readers of one table: whatever the first accepts, the second reads the same."""

from __future__ import annotations

import inspect
import pkgutil
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import admit_cli
from admit_cli import main, table, teach

Parsed = tuple[tuple[str, ...], dict[str, Any]]


def by_typer(argv: list[str]) -> Parsed | None:
    called: list[Parsed] = []
    before, teach.call = teach.call, lambda command, values: called.append((command.path, values)) or 0
    try:
        code = teach.teach(argv)
    finally:
        teach.call = before
    assert code in (0, 64)
    return called[0] if called else None


def by_us(argv: list[str]) -> Parsed | None:
    parsed = main.parse(argv)
    return None if parsed is None else (parsed[0].path, parsed[1])


WORDS = st.one_of(
    st.sampled_from(
        ["coder", "x", "--", "-", "", "-h", "--wait=5s", "--wait", "--config=", "--json=1", "a b", "-j", "é"]
    ),
    st.sampled_from([option.flag for command in table.COMMANDS for option in command.options]),
    st.sampled_from(["10m", "0", "soon", "25h", "2190", "70000", "capacity.yaml", "--evic"]),
)
LINES = st.tuples(
    st.sampled_from([[], ["--config", "a.yaml"], ["--config=a.yaml"], ["--config"]]),
    st.sampled_from([list(command.path) for command in table.COMMANDS] + [["nonsense"], ["config"]]),
    st.lists(WORDS, max_size=6),
).map(lambda parts: [word for part in parts for word in part])


@given(LINES)
def test_whatever_the_short_way_accepts_typer_reads_the_same(argv: list[str]) -> None:
    ours = by_us(argv)
    if ours is not None:
        assert by_typer(argv) == ours


@given(LINES.filter(lambda argv: by_us(argv) is None))
def test_what_the_short_way_leaves_typer_reads_or_refuses_in_words(argv: list[str]) -> None:
    by_typer(argv)  # 0 or 64, and nothing is raised


SAME = [
    "load coder",
    "load coder --wait 10m --evict --yes --cleanup --json --config a.yaml",
    "load --wait=10m coder",
    "load --config=a.yaml coder",
    "--config a.yaml load coder",
    "--config a.yaml load coder --config b.yaml",
    "unload one two three --kill",
    "run x -- sh -c 'echo --json -h --wait' -- --config",
    "run x --wait 2h -- python train.py",
    "run --wait 90s x -- -- true",
    "run x --config a.yaml -- run x -- y",
    "status",
    "status --json --watch",
    "plan x --json",
    "explain x",
    "config check --json --config ./a.yaml",
    "config schema",
    "daemon run --port 2190",
]


@pytest.mark.parametrize("line", SAME)
def test_the_canonical_forms_take_the_short_way(line: str) -> None:
    argv = shlex.split(line)
    ours = by_us(argv)
    assert ours is not None
    assert by_typer(argv) == ours


@pytest.mark.parametrize("line", ["--config=a.yaml load x", "load -- x", "--config=a.yaml run x --wait 1h -- y --json"])
def test_some_right_ones_take_the_long_way_and_mean_the_same(line: str) -> None:
    argv = shlex.split(line)
    assert by_us(argv) is None
    read = by_typer(argv)
    assert read is not None
    assert read[1]["name"] == "x"
    if read[0] == ("run",):
        assert (read[1]["cmd"], read[1]["wait"], read[1]["json"]) == (["y", "--json"], 3600.0, False)


def test_the_file_may_be_named_before_or_after_and_the_later_one_counts() -> None:
    def named(line: str) -> str:
        parsed = by_us(shlex.split(line))
        assert parsed is not None
        return str(parsed[1]["config"])

    assert named("--config a load x") == named("load x --config a") == named("load --config=a x") == "a"
    assert named("--config a load x --config b") == "b"


WRONG = {
    "": "Usage: admit",
    "nonsense": "No such command 'nonsense'",
    "load": "Missing argument",
    "load a b": "unexpected extra argument",
    "load a --nope": "No such option: --nope",
    "load a --wait": "requires an argument",
    "load a --wait soon": "is not a duration; write for example 90s, 10m or 1h",
    "load a --wait 25h": "longer than a day; write at most 24h",
    "load a --json=1": "does not take a value",
    "unload": "Missing argument",
    "run a": "goes after --",
    "run a sleep 1": "goes after --",
    "run a --": "goes after --",
    "run a b -- c": "unexpected 'b'",
    "run -- c": "Missing argument",
    "run a --wait -- c": "requires an argument",
    "daemon run --port 0": "write a number from 1 to 65535",
    "config": "Usage: admit config",
    "config nonsense": "No such command",
    "status extra": "unexpected extra argument",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_64_with_the_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_us(shlex.split(line)) is None
    assert teach.teach(shlex.split(line)) == 64
    said = capsys.readouterr()
    assert "Usage: admit" in said.err
    assert WRONG[line] in said.err
    assert said.out == ""


def test_every_option_of_the_table_is_used_somewhere_by_its_command() -> None:
    """A flag that nothing reads would be a promise without anyone behind it."""
    code = ""
    for module in pkgutil.iter_modules(admit_cli.__path__):
        if module.name not in ("table", "teach", "main"):
            code += inspect.getsource(__import__(f"admit_cli.{module.name}", fromlist=["x"]))
    for command in table.COMMANDS:
        for option in command.options:
            assert f'["{option.name}"]' in code or f'get("{option.name}"' in code, (command.path, option.flag)
