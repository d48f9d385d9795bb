"""`admit init`: writes a file where there is none, asks first, adds to one that is there, and spoils nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd.engines import name_of
from tests.cli.conftest import Desk, free_port
from tests.lookalikes import Lookalikes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stand-ins by /proc")


@pytest.fixture
def engines(desk: Desk) -> Iterator[Lookalikes]:
    lookalikes = Lookalikes(desk.home / "bin")
    try:
        yield lookalikes
    finally:
        lookalikes.end()


def drafts(desk: Desk) -> list[str]:
    return [name for name in os.listdir(desk.home) if name.startswith(".capacity")]


def test_a_new_file_is_written_and_never_overwritten(desk: Desk, engines: Lookalikes) -> None:
    model = f"org/{desk.home.name}"
    pid = engines.start("llama-server", "-m", f"{model}.gguf", "--port", str(desk.port))
    done = desk.admit("init", "--yes").must(0)
    assert f"matches process {pid} now and nothing else" in done.err
    assert done.out.startswith(f"{desk.config}: written, ")
    text = desk.config.read_text()
    assert text.startswith("# yaml-language-server: $schema=./capacity.schema.json\n")
    assert desk.config.stat().st_mode & 0o777 == 0o600
    assert (desk.home / "capacity.schema.json").read_text() == desk.admit("config", "schema").out
    assert "fine; host" in desk.admit("config", "check").must(0).out
    name = name_of("llama", desk.home.name)
    assert f"{pid}" in desk.admit("explain", name).must(0).out

    again = desk.admit("init", "--yes").must(1)
    assert "is there already, and stays as it is" in again.err
    assert "admit init --merge" in again.err
    assert desk.config.read_text() == text
    assert drafts(desk) == []


def test_the_default_place_is_made(desk: Desk) -> None:
    env = {"ADMIT_CONFIG": ""}
    body = desk.admit("init", "--yes", "--json", env=env).must(0).json
    assert body["file"] == str(desk.home / ".config" / "admit" / "capacity.yaml")
    assert Path(body["file"]).parent.stat().st_mode & 0o077 == 0
    desk.admit("status", env=env).must(0)


def test_it_asks_on_a_terminal_and_takes_no_for_an_answer(desk: Desk) -> None:
    done = desk.terminal("init", answer="n\n", when="[Y/n]")
    assert done.code == 1
    assert "nothing was written" in done.out
    assert not desk.config.exists()
    done = desk.terminal("init", answer="\n", when="[Y/n]")
    assert done.code == 0
    assert desk.config.exists()


def test_without_a_terminal_it_is_agreed_to_by_an_option(desk: Desk) -> None:
    assert "--yes" in desk.admit("init").must(64).err
    assert not desk.config.exists()


def test_a_check_that_does_not_say_loaded_is_told(desk: Desk, engines: Lookalikes) -> None:
    """As where a tool's table has changed: what nobody mends is charged nothing for ever."""
    lms = desk.home / ".lmstudio" / "bin" / "lms"
    lms.parent.mkdir(parents=True)
    name = desk.home.name  # its own: other runs of this test are on the same machine
    listed = json.dumps([{"identifier": name, "sizeBytes": 9_000_000}])
    lms.write_text(f"#!/bin/sh\n[ \"$2\" = --json ] && exec echo '{listed}'\necho no table today\n")
    lms.chmod(0o755)
    engines.start("LM Studio")
    done = desk.admit("init", "--yes", "--json").must(0)
    doubts = {each["name"]: each["doubt"] for each in done.json["services"]}
    assert doubts[name_of("lmstudio", name)] == "exit 1"
    desk.config.unlink()
    assert "Not to be trusted yet: it is loaded, and its loaded_check_cmd does not say so (exit 1)." in (
        desk.admit("init", "--yes").must(0).err
    )
    assert f"{lms} ps | grep" in desk.config.read_text()


MINE = """# my machine, by hand
hosts:
  box: {ram_physical_mb: 20000, ram_reserved_mb: 0, ram_safety_mb: 0}   # all of it

services:
  # the one that I like
  mine:
    ram_budget_mb:   100      # guessed
    process_pattern: 'llama-server .*--port PORT( |$)'
    program: llama-server
# the end, with a remark
live_veto: off
"""


def test_merge_adds_what_is_missing_and_keeps_every_byte(desk: Desk, engines: Lookalikes) -> None:
    mine = MINE.replace("PORT", str(desk.port))  # its own: other runs of this test are on the same machine
    desk.config.write_text(mine)
    desk.config.chmod(0o640)
    engines.start("llama-server", "-m", f"/m/mine-{desk.port}.gguf", "--port", str(desk.port))
    engines.start("mlx_lm.server", "--model", f"org/{desk.home.name}", "--port", str(free_port()))
    done = desk.admit("init", "--merge", "--yes").must(0)
    name = name_of("mlx", desk.home.name)
    assert name in done.out
    text = desk.config.read_text()
    assert f"llama-mine-{desk.port}" not in text
    assert desk.config.stat().st_mode & 0o777 == 0o640
    before, after = mine.split("# the end")
    assert text.startswith(before.rstrip("\n"))
    assert text.endswith("# the end" + after)
    assert "\n\n  # mlx_lm.server. Without --prompt-cache-bytes" in text
    desk.admit("config", "check").must(0)

    again = desk.admit("init", "--merge", "--yes", "--json").must(0).json
    assert name not in [each["name"] for each in again["services"]]


def test_merge_refuses_a_broken_file_and_leaves_it(desk: Desk) -> None:
    broken = MINE.replace("ram_budget_mb:   100", "ram_budget_mb: lots")
    desk.config.write_text(broken)
    done = desk.admit("init", "--merge", "--yes").must(78)
    assert "services.mine.ram_budget_mb" in done.err
    assert desk.config.read_text() == broken
    desk.config.unlink()
    assert "no such file" in desk.admit("init", "--merge", "--yes").must(66).err


def test_a_place_that_cannot_be_written_is_said_so(desk: Desk) -> None:
    done = desk.admit("init", "--yes", "--config", "/dev/null/capacity.yaml").must(1)
    assert "/dev/null" in done.err
    assert done.out == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_said_so(desk: Desk) -> None:
    (desk.home / "closed").mkdir(mode=0o500)
    done = desk.admit("init", "--yes", "--config", desk.home / "closed" / "capacity.yaml").must(1)
    assert "Permission denied" in done.err


def test_a_disk_that_is_full_leaves_nothing_behind(desk: Desk) -> None:
    line = 'ulimit -f 0; trap "" XFSZ; exec admit init --yes'
    done = desk.finish(desk.popen(["/bin/bash", "-c", line])).must(1)
    assert "File too large" in done.err
    assert not desk.config.exists()
    assert drafts(desk) == []
