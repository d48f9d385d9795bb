"""What a command of capacity.yaml would run, as doctor reads it from the text."""

from __future__ import annotations

from typing import Any

import pytest

from admitd.doctor import commandline

ENVIRON = {"HOME": "/h", "M": "/models"}
LINES: list[tuple[Any, list[str]]] = [
    ("mlx_lm.server --model x", ["mlx_lm.server --model x"]),
    (("a b", "c"), ["a b c"]),
    ("A=1 B='2 3' exec vllm serve $M/x", ["vllm serve /models/x"]),
    ('cd "$HOME/ComfyUI" && exec .venv/bin/python main.py', ["/h/ComfyUI: .venv/bin/python main.py"]),
    ("lms ps | grep -qw coder-14b", ["lms ps", "grep -qw coder-14b"]),
    ("a > /dev/null 2>&1; b &", ["a", "b"]),
    ("if test -e x; then run-it; fi", []),
    ("$SERVER --port 1", []),
    ("x $(which y)", []),
    ("`z`", []),
    ("~/bin/tool it", ["/h/bin/tool it"]),
    ("'open quote", []),
    ("curl -d '{\"a\": 1}' http://h/", ['curl -d {"a": 1} http://h/']),
]


@pytest.mark.parametrize(("command", "runs"), LINES, ids=[str(command) for command, _ in LINES])
def test_what_a_command_runs(command: Any, runs: list[str]) -> None:
    found = [
        (f"{each.folder}: " if each.folder else "") + " ".join(each.argv)
        for each in commandline.programs(command, ENVIRON)
    ]
    assert found == runs
