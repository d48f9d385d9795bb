"""Help teaches by example; completion scripts are made; everything is found without a capacity.yaml."""

from __future__ import annotations

import shlex

import pytest

from admit_cli import main, table
from tests.cli.conftest import Desk

PATHS = [" ".join(command.path) for command in table.COMMANDS]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", PATHS)
def test_help_of_every_command_shows_its_examples_and_options(
    path: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.dispatch([*path.split(), flag]) == 0
    said = capsys.readouterr().out
    command = table.find(path.split())
    assert command is not None
    for example in command.examples:
        assert f"  {example}\n" in said
    for option in command.options:
        assert f"  {option.flag}" in said
    assert said.startswith(f"Usage: admit {path} ")


def test_help_lists_every_command_on_one_line_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["--help"]) == 0
    said = capsys.readouterr().out
    for name in {command.path[0] for command in table.COMMANDS}:
        (line,) = (line for line in said.splitlines() if line.startswith(f"  {name} "))
        assert not line.endswith("...")
    assert "2 refused (and nothing else is 2)" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("path", PATHS)
def test_every_example_parses(path: str) -> None:
    command = table.find(path.split())
    assert command is not None
    for example in command.examples:
        words = shlex.split(example, comments=True)
        ends = [words.index(mark) for mark in ("|", ">") if mark in words]
        parsed = main.parse(words[1 : min(ends, default=len(words))])
        assert parsed is not None, example
        assert parsed[0] is command


def test_no_command_at_all_is_wrong_usage_and_shows_the_help(desk: Desk) -> None:
    done = desk.admit().must(64)
    assert "Commands:" in done.err


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(desk: Desk, flag: str) -> None:
    assert desk.admit(flag).must(0).out.startswith("admit 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(desk: Desk, shell: str) -> None:
    env = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = desk.admit("--show-completion", shell, env=env).must(0)
    assert "_ADMIT_COMPLETE" in shown.out
    sourced = desk.admit(env={"_ADMIT_COMPLETE": f"source_{shell}"}).must(0)
    assert f"complete_{shell}" in sourced.out


def completions(desk: Desk, *words: str) -> list[str]:
    env = {"_ADMIT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return desk.admit(env=env).must(0).out.split()


def test_completion_knows_commands_options_and_declared_services(desk: Desk) -> None:
    desk.declare(desk.service("coder"), desk.service("chat", 2000))
    assert completions(desk, "admit", "stat") == ["status"]
    assert completions(desk, "admit", "load", "--ev") == ["--evict"]
    assert completions(desk, "admit", "load", "c") == ["coder", "chat"]
    assert completions(desk, "admit", "unload", "coder", "ch") == ["chat"]
    desk.config.write_text("services: [")
    assert completions(desk, "admit", "load", "c") == []


def test_completion_in_a_real_bash(desk: Desk) -> None:
    desk.declare(desk.service("coder"))
    line = 'COMP_WORDS=(admit load co); COMP_CWORD=2; _admit_completion admit; echo "${COMPREPLY[@]}"'
    script = f'eval "$(_ADMIT_COMPLETE=source_bash admit)"; {line}'
    done = desk.finish(desk.popen(["bash", "-c", script])).must(0)
    assert done.out.strip() == "coder"
