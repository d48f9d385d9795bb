"""`admit config check` and `admit config schema`, and whose file it is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Desk

HERE = Path(__file__).parents[2]


def test_a_good_file(desk: Desk) -> None:
    path = desk.declare(desk.service("coder"))
    done = desk.admit("config", "check").must(0)
    assert done.out == f"{path}: fine; host box, pool 10000 MB, 1 services\n"
    body = desk.admit("config", "check", "--json").must(0).json
    assert (body["ok"], body["pool_mb"], body["problems"]) == (True, 10_000, [])


def test_every_problem_at_once_is_78(desk: Desk) -> None:
    desk.declare(desk.service("a", ram_budget_mb=-1), desk.service("b", priority="high"))
    done = desk.admit("config", "check").must(78)
    assert done.out == ""
    assert len([line for line in done.err.splitlines() if line.startswith(str(desk.config))]) == 2
    body = desk.admit("config", "check", "--json").must(78).json
    assert body["ok"] is False
    assert {problem["path"].split(".")[1] for problem in body["problems"]} == {"a", "b"}


def test_a_wrong_file_is_78_for_every_command_with_json_too(desk: Desk) -> None:
    desk.declare(desk.service("a", ram_budget_mb=-1))
    for words in (["status"], ["load", "a"], ["unload", "a"], ["plan", "a"], ["explain", "a"], ["run", "a"]):
        rest = ["--", "true"] if words[0] == "run" else []
        body = desk.admit(*words, "--json", *rest).must(78).json
        assert body["exit_code"] == 78
        assert body["problems"][0]["path"].startswith("services.a")


def test_no_file_is_66_for_every_command(desk: Desk) -> None:
    for words in (["status"], ["load", "a"], ["unload", "a"], ["plan", "a"], ["explain", "a"], ["config", "check"]):
        done = desk.admit(*words, "--json").must(66)
        assert "no such file ($ADMIT_CONFIG)" in done.err
        assert done.json["exit_code"] == 66
    done = desk.admit("status", env={"ADMIT_CONFIG": ""}).must(66)
    assert str(desk.home / ".config/admit/capacity.yaml") in done.err


def test_a_file_that_others_may_write_to_is_78(desk: Desk) -> None:
    desk.declare(desk.service("coder")).chmod(0o666)
    done = desk.admit("status").must(78)
    assert "chmod" in done.err


def test_the_schema_is_the_one_in_the_repository(desk: Desk) -> None:
    shipped = json.loads((HERE / "config" / "capacity.schema.json").read_text())
    assert desk.admit("config", "schema").must(0).json == shipped
    assert desk.admit("config", "schema", "--json").must(0).json == shipped


def test_the_file_in_the_home_is_found(desk: Desk) -> None:
    (desk.home / ".config" / "admit").mkdir(parents=True)
    path = desk.declare(desk.service("coder"), path=desk.home / ".config" / "admit" / "capacity.yaml")
    assert str(path) in desk.admit("config", "check", env={"ADMIT_CONFIG": ""}).must(0).out
