"""`admit service add|edit|remove`: one entry changes, every comment stays, and a wrong file is never written."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.cli.conftest import Desk

FILE = """# my machine
hosts:
  box: {ram_physical_mb: 10000, ram_reserved_mb: 0, ram_safety_mb: 0}
services:
  # the good one
  coder:
    ram_budget_mb: 6000     # measured
    process_pattern: 'coder-server '

  chat: {ram_budget_mb: 2000, process_pattern: 'chat-server ', exclusive_with: [coder]}
# the end
"""


@pytest.fixture
def file(desk: Desk) -> Desk:
    desk.config.write_text(FILE)
    desk.config.chmod(0o640)
    return desk


def test_a_service_is_added_edited_and_removed_again(file: Desk) -> None:
    """What a user does one after the other; in the end the file is what it was, to the byte."""
    words = ["ram_budget_mb=500", "process_pattern=vision .*--port 81", "load_cmd=[vision, --port, '81']"]
    done = file.admit("service", "add", "vision", *words, "probe.url=http://127.0.0.1:81/v1/completions").must(0)
    assert f"{file.config}:" in done.out.splitlines()[0]
    assert "  +    process_pattern: 'vision .*--port 81'" in done.out.splitlines()
    assert file.admit("config", "check").must(0).out.endswith("3 services\n")
    assert file.config.stat().st_mode & 0o777 == 0o640

    file.admit("service", "edit", "vision", "priority=-5", "pinned=yes", "load_cmd=vision --fast").must(0)
    text = file.config.read_text()
    assert "    load_cmd: 'vision --fast'\n" in text
    assert "    priority: -5\n    pinned: true\n" in text
    body = file.admit("service", "edit", "vision", "priority=", "probe.url=http://h/", "--json").must(0).json
    assert body["diff"][1:] and body["service"] == "vision"
    assert "priority" not in file.config.read_text()

    done = file.admit("service", "remove", "vision").must(0)
    assert "  -  vision:" in done.out
    assert file.config.read_text() == FILE


LINE = "llama-server -m /m/helper.gguf --port 8123"
MLX = "mlx_lm.server --model /m/Qwen --port 8124"


def test_what_an_engine_that_is_known_says_need_not_be_written(file: Desk) -> None:
    """A pattern, its program and a probe; MLX servers never beside one another, as `admit init` has it."""
    done = file.admit("service", "add", "helper", "ram_budget_mb=500", f"load_cmd={LINE}").must(0)
    assert "from its load_cmd, as llama-server has it: process_pattern, program, load_timeout_s, probe" in done.err
    assert "  +    process_pattern: 'llama-server .*--port 8123( |$)'" in done.out.splitlines()
    assert "  +      url: http://127.0.0.1:8123/v1/chat/completions" in done.out.splitlines()
    file.admit("service", "add", "one", "ram_budget_mb=500", "process_pattern=mlx_lm.server .*One").must(0)
    done = file.admit("service", "add", "two", "ram_budget_mb=500", f"load_cmd={MLX}").must(0)
    assert "exclusive_with" in done.err
    assert "      - one" in done.out or "exclusive_with: [one]" in done.out
    file.admit("config", "check").must(0)


def test_what_was_written_stays(file: Desk) -> None:
    words = ["ram_budget_mb=500", "process_pattern=helper", f"load_cmd={LINE}"]
    done = file.admit("service", "add", "helper", *words).must(0)
    assert (done.err, "program" in file.config.read_text()) == ("", False)


def test_comments_and_neighbours_stay(file: Desk) -> None:
    file.admit("service", "edit", "coder", "ram_budget_mb=7000").must(0)
    assert file.config.read_text() == FILE.replace("6000 ", "7000 ")
    file.admit("service", "edit", "chat", "exclusive_with=").must(0)
    file.admit("service", "remove", "coder").must(0)
    text = file.config.read_text()
    assert "the good one" not in text
    assert text.endswith("services:\n  chat: {ram_budget_mb: 2000, process_pattern: 'chat-server '}\n# the end\n")


WRONG = [
    (["add", "coder", "ram_budget_mb=1"], 64, "declares coder already"),
    (["add", "x", "ram_budget_mb=1"], 78, "neither process_pattern nor"),
    (["add", "x", "process_pattern=y"], 78, "ram_budget_mb"),
    (["add", "x", f"load_cmd={LINE}"], 78, "ram_budget_mb"),
    (["add", "x", "load_cmd=[llama-server, --port, 81]"], 78, "load_cmd"),
    (["add", "x", "load_cmd=[]"], 78, "load_cmd"),
    (["add", "x", "load_cmd={a: b}"], 78, "ram_budget_mb"),
    (["add", "x", "load_cmd=cd /nowhere; ;"], 78, "neither process_pattern nor"),
    (["add", "x", "ram_budget_mb=1", "load_cmd=tail -f mlx_lm.server"], 78, "neither process_pattern nor"),
    (["add", "x", "ram_budget_mb=1", "load_cmd='mlx_lm.server"], 78, "neither process_pattern nor"),
    (["add", "x", "ram_budget_mb=20000", "process_pattern=y"], 78, "more than the whole pool of 10000 MB"),
    (["add", "x", "ram_budget_mb=1", "process_pattern=("], 78, "process_pattern"),
    (["add", "x", "ram_budget_mb=1", "process_pattern=y", "colour=red"], 78, "colour"),
    (["add", "no name", "ram_budget_mb=1", "process_pattern=y"], 78, "no name"),
    (["add", "x", "ram_budget_mb"], 64, "is no KEY=VALUE"),
    (["add", "x", "ram_budget_mb=1", "ram_budget_mb=2"], 64, "twice"),
    (["add", "x", "probe=1", "probe.url=http://h/"], 64, "has a value already"),
    (["add", "x", "priority="], 64, "says nothing"),
    (["add", "x", "exclusive_with=[coder"], 64, "exclusive_with"),
    (["add", "x"], 64, "Missing argument"),
    (["edit", "codr", "priority=1"], 66, "Did you mean coder?"),
    (["edit", "coder", "priority=high"], 78, "priority"),
    (["edit", "coder", "ram_budget_mb="], 78, "ram_budget_mb"),
    (["edit", "coder", "hard_limit_mb="], 1, "does not say it"),
    (["edit", "coder", "program=NAME"], 64, "program=NAME stands for a value"),
    (["edit", "coder", "process_pattern=..."], 64, "stands for a value"),
    (["edit", "coder", "load_cmd= ... "], 64, "stands for a value"),
    (["add", "x", "ram_budget_mb=1", "process_pattern=<pattern>"], 64, "stands for a value"),
    (["edit", "coder", "process_pattern=.{3}"], 78, "matches any characters"),
    (["edit", "coder", "process_pattern=.*"], 78, "and so every process"),
    (["remove", "nobody"], 66, "declares no service"),
    (["remove", "coder"], 78, "exclusive_with"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=[" ".join(words) for words, _, _ in WRONG])
def test_what_would_not_validate_is_refused_and_nothing_is_written(
    file: Desk, words: list[str], code: int, said: str
) -> None:
    done = file.admit("service", *words).must(code)
    assert said in done.err
    assert done.out == ""
    assert file.config.read_text() == FILE
    assert [name for name in os.listdir(file.home) if name.startswith(".capacity")] == []


def test_a_file_that_is_not_there_or_broken_is_said_so(file: Desk) -> None:
    file.config.write_text(FILE + "colour: red\n")
    assert "colour" in file.admit("service", "remove", "chat").must(78).err
    file.config.unlink()
    file.admit("service", "add", "x", "ram_budget_mb=1").must(66)


def test_completion_knows_the_keys_and_the_services(file: Desk) -> None:
    def completions(*words: str) -> list[str]:
        env = {"_ADMIT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return file.admit(env=env).must(0).out.split()

    assert completions("admit", "service", "re") == ["remove"]
    assert completions("admit", "service", "edit", "cod") == ["coder"]
    assert completions("admit", "service", "edit", "coder", "ram_b") == ["ram_budget_mb="]
    assert completions("admit", "service", "edit", "coder", "probe.e") == ["probe.expect_status="]


def test_a_disk_that_is_full_leaves_the_old_file(file: Desk) -> None:
    """The size of files is limited for this one command, which the system reports as a failed write."""
    line = 'ulimit -f 0; trap "" XFSZ; exec admit service edit coder priority=1'
    done = file.finish(file.popen(["/bin/bash", "-c", line], stderr=subprocess.PIPE)).must(1)
    assert "File too large" in done.err
    assert file.config.read_text() == FILE
    assert [name for name in os.listdir(file.home) if name.startswith(".capacity")] == []
