"""`admit doctor`, run as a user would: on a good machine, and on one where something is wrong."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from tests.cli.conftest import Desk


def looked(desk: Desk, code: int, *words: str) -> dict[str, list[dict[str, Any]]]:
    """Findings by check."""
    done = desk.admit("doctor", "--json", *words).must(code)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.out)["findings"]:
        found.setdefault(each["check"], []).append(each)
    return found


def levels(found: dict[str, list[dict[str, Any]]], *names: str) -> list[str]:
    return [each["level"] for name in names for each in found[name]]


def declared_right(desk: Desk) -> None:
    """With the memory that this machine has."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    desk.declare(desk.service("coder"), pool_mb=physical)


def test_a_good_machine_with_a_daemon(desk: Desk) -> None:
    declared_right(desk)
    process = desk.daemon()
    found = looked(desk, 0)
    names = ("file", "rights", "commands", "patterns", "overlaps", "memory", "port", "daemon", "clock", "disk")
    assert set(levels(found, *names)) == {"ok"}, found
    said = desk.admit("doctor").must(0).out
    assert "fault " not in said
    assert said.splitlines()[-1].startswith("0 faults, ")
    assert "\x1b" not in said
    assert process.poll() is None


def test_it_works_without_a_daemon_and_without_a_file(desk: Desk) -> None:
    found = looked(desk, 1, "--config", str(desk.home / "none.yaml"))
    assert levels(found, "file", "daemon", "port") == ["fault", "ok", "ok"]
    said = desk.admit("doctor", "--config", str(desk.home / "none.yaml")).must(1).out
    assert said.splitlines()[-2].startswith("1 fault, 0 warnings, "), "one thing is wrong, and one is said"
    assert said.splitlines()[-1].startswith("not looked at, for want of a good file: commands, ")
    assert not (desk.home / ".local").exists(), "nothing was made by looking"
    desk.declare(desk.service("coder"))
    desk.shell(f"{found['file'][0]['mend']} --yes").must(0)
    assert (desk.home / "none.yaml").exists(), "the file that was named is made, not the one found by default"


def test_what_is_wrong_is_said_with_what_mends_it(desk: Desk) -> None:
    """And what mends it does."""
    desk.declare(desk.service("coder", load_cmd="no-such-program --x"), pool_mb=9_000_000)
    desk.config.chmod(0o666)
    found = looked(desk, 1)
    assert found["rights"][0]["mend"] == f"chmod go-w {desk.config}"
    desk.shell(found["rights"][0]["mend"]).must(0)
    found = looked(desk, 1)
    assert levels(found, "rights", "commands", "memory") == ["ok", "fault", "fault"]
    assert "no-such-program" in found["commands"][0]["what"]
    desk.admit("service", "edit", "coder", f"load_cmd={desk.command('coder')}").must(0)
    assert levels(looked(desk, 1), "commands") == ["ok"]


@pytest.mark.parametrize("named", [None, "o ther.yaml"])
def test_a_service_above_its_budget_is_a_fault_that_one_command_mends(desk: Desk, named: str | None) -> None:
    """In the file that was looked at, and in no other."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    coder = desk.service("coder", 20, "--hold-mb 100")
    desk.declare(coder, pool_mb=physical)
    words = []
    if named is not None:
        words = ["--config", str(desk.declare(coder, pool_mb=physical, path=desk.home / named))]
    before = desk.config.read_text()
    desk.admit("load", "coder").must(0)
    (found,) = looked(desk, 1, *words)["budgets"]
    assert found["level"] == "fault"
    desk.shell(found["mend"]).must(0)
    (found,) = looked(desk, 0, *words)["budgets"]
    assert found["level"] == "ok"
    assert (desk.config.read_text() == before) == (named is not None)


def test_a_port_that_another_has_taken_is_said_with_his_name(desk: Desk) -> None:
    declared_right(desk)
    with socket.create_server(("127.0.0.1", desk.port)) as server:
        server.settimeout(30)
        process = desk.begin("doctor", "--json")
        while process.poll() is None:
            try:
                server.settimeout(0.2)
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        done = desk.finish(process).must(1)
    (found,) = [each for each in done.json["findings"] if each["check"] == "port"]
    assert f"process {os.getpid()} (" in found["what"]
    assert found["level"] == "fault"


def test_a_wrong_port_is_wrong_usage(desk: Desk) -> None:
    assert "ADMIT_PORT" in desk.admit("doctor", env={"ADMIT_PORT": "many"}).must(64).err
