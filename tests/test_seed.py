"""The seed: the host and the two services of the contract's own example, through the real command line and over HTTP.

Light processes stand for the two: a script called mlx_lm.server, and a file that `lms` makes and removes.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import STANDIN, Desk, desk, wait_until

__all__ = ["desk"]

SEED = """\
hosts:
  manoir:
    ram_physical_mb: 65536
    ram_reserved_mb: 12288
    ram_safety_mb: 4096
services:
  sanctum-mlx:
    ram_budget_mb: 45000
    priority: 100
    exclusive_with: [lmstudio-coder-14b]
    process_pattern: 'mlx_lm\\.server .*Qwen3\\.6-35B-{token}'
    load_cmd: "exec {python} -IS {home}/mlx_lm.server --name mlx-community/Qwen3.6-35B-{token}"
    load_timeout_s: 60
    unload_timeout_s: 10
  lmstudio-coder-14b:
    ram_budget_mb: 12000
    priority: 50
    loaded_check_cmd: "{home}/lms ps | grep -q coder-14b"
    load_cmd: "{home}/lms load coder-14b"
    unload_cmd: "{home}/lms unload coder-14b"
live_veto: off
"""
LMS = """\
#!/bin/sh
case $1 in
ps) cat "{home}/models" 2>/dev/null ;;
load) echo "$2" >"{home}/models" ;;
unload) rm -f "{home}/models" ;;
esac
"""
SANCTUM, CODER = "sanctum-mlx", "lmstudio-coder-14b"


@pytest.fixture
def manoir(desk: Desk) -> Iterator[Desk]:
    """The machine of the example."""
    shutil.copy(STANDIN, desk.home / "mlx_lm.server")
    words = {"home": desk.home, "python": sys.executable, "token": desk.home.name.removeprefix("admit-")}
    (desk.home / "lms").write_text(LMS.format(**words))
    (desk.home / "lms").chmod(0o700)
    desk.config.write_text(SEED.format(**words))
    desk.config.chmod(0o600)
    yield desk


def ask(desk: Desk, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", desk.port, timeout=30)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        said = response.read()
        return response.status, json.loads(said) if said else None
    finally:
        connection.close()


def status(desk: Desk) -> dict[str, Any]:
    body: dict[str, Any] = desk.admit("status", "--json").must(0).json
    return {key: body[key] for key in ("pool_mb", "charged_mb", "free_mb")} | {
        service["name"]: (service["state"], service["charged_mb"]) for service in body["services"]
    }


@pytest.mark.parametrize("way", ["daemon", "inside"])
def test_the_story_through_the_command_line(manoir: Desk, way: str) -> None:
    if way == "daemon":
        manoir.daemon()
    assert status(manoir) == {
        "pool_mb": 49_152,
        "charged_mb": 0,
        "free_mb": 49_152,
        SANCTUM: ("stopped", 0),
        CODER: ("stopped", 0),
    }
    assert manoir.admit("plan", SANCTUM).must(0).out == "sanctum-mlx fits: 49152 MB are free.\n"

    assert manoir.admit("load", SANCTUM).must(0).out.startswith("sanctum-mlx is loaded (pid ")
    assert status(manoir) == {
        "pool_mb": 49_152,
        "charged_mb": 45_000,
        "free_mb": 4_152,
        SANCTUM: ("loaded", 45_000),
        CODER: ("stopped", 0),
    }
    assert manoir.admit("load", SANCTUM).must(0).out == "sanctum-mlx is loaded already\n"

    # Its priority is higher, so nothing is to be unloaded for the second: the refusal says that instead.
    done = manoir.admit("load", CODER, "--json").must(2)
    assert (done.json["reason"], done.json["remedy"], done.json["victims"]) == ("exclusive", None, [])
    assert (done.json["budget_mb"], done.json["free_mb"], done.json["shortfall_mb"]) == (12_000, 4_152, 7_848)
    (blocker,) = done.json["blockers"]
    assert (blocker["service"], blocker["state"], blocker["charged_mb"]) == (SANCTUM, "loaded", 45_000)
    assert "sanctum-mlx has a higher priority" in done.err
    assert not (manoir.home / "models").exists()

    # The blocker's own remedy is for the one who knows better; pasted, it works.
    assert blocker["remedy"] == "admit unload sanctum-mlx"
    manoir.shell(blocker["remedy"]).must(0)
    assert manoir.admit("load", CODER).must(0).out.startswith("lmstudio-coder-14b is loaded after ")
    assert status(manoir)[CODER] == ("loaded", 12_000)

    # The other way round the first is refused, and the remedy is the second.
    done = manoir.admit("load", SANCTUM, "--json").must(2)
    assert (done.json["reason"], done.json["victims"]) == ("exclusive", [CODER])
    assert (done.json["free_mb"], done.json["shortfall_mb"]) == (37_152, 7_848)
    assert done.json["remedy"] == "admit unload lmstudio-coder-14b"
    assert "  make room:  admit unload lmstudio-coder-14b\n" in done.err + "\n"
    manoir.shell(done.json["remedy"]).must(0)
    manoir.admit("load", SANCTUM).must(0)
    manoir.admit("unload", SANCTUM).must(0)
    assert status(manoir)["free_mb"] == 49_152


def test_evict_does_all_of_it_at_once(manoir: Desk) -> None:
    manoir.daemon()
    manoir.admit("load", CODER).must(0)
    done = manoir.admit("load", SANCTUM, "--evict", "--yes").must(0)
    assert "  lmstudio-coder-14b  12000 MB" in done.err
    assert status(manoir)[CODER] == ("stopped", 0)
    assert status(manoir)[SANCTUM] == ("loaded", 45_000)
    manoir.admit("load", CODER, "--evict", "--yes").must(2)  # never a higher priority


def test_the_story_over_http(manoir: Desk) -> None:
    manoir.daemon()
    code, body = ask(manoir, "POST", "/admit", {"service": SANCTUM, "dry_run": True})
    assert (code, body["verdict"], body["budget_mb"], body["free_mb"]) == (200, "admitted", 45_000, 49_152)
    assert body["reservation"] is None

    holder = manoir.started.start("sleep", "1000.150")
    code, body = ask(manoir, "POST", "/admit", {"service": SANCTUM, "holder_pid": holder.pid})
    assert (code, body["reservation"]["budget_mb"], body["reservation"]["holder_pid"]) == (200, 45_000, holder.pid)
    code, refused = ask(manoir, "POST", "/admit", {"service": CODER})
    assert (code, refused["reason"], refused["free_mb"]) == (409, "exclusive", 4_152)
    assert refused["remedy"] == "admit load lmstudio-coder-14b --wait 5m"
    assert ask(manoir, "DELETE", f"/reservations/{body['reservation']['id']}")[0] == 204

    manoir.admit("load", SANCTUM).must(0)
    code, body = ask(manoir, "POST", "/admit", {"service": SANCTUM})
    assert (code, body["verdict"], body["state"]) == (200, "already_loaded", "loaded")
    code, body = ask(manoir, "GET", "/capacity")
    assert (code, body["charged_mb"], body["free_mb"]) == (200, 45_000, 4_152)
    code, body = ask(manoir, "GET", f"/plan?service={CODER}")
    assert (code, body["fits"], body["victims"], body["remedy"]) == (200, False, [], None)
    manoir.admit("unload", SANCTUM).must(0)

    manoir.admit("load", CODER).must(0)
    code, body = ask(manoir, "POST", "/admit", {"service": SANCTUM})
    assert (code, body["reason"], body["shortfall_mb"]) == (409, "exclusive", 7_848)
    assert (body["victims"], body["remedy"]) == ([CODER], "admit unload lmstudio-coder-14b")


def test_a_holder_that_dies_gives_back(manoir: Desk) -> None:
    manoir.daemon()
    holder = manoir.started.start("sleep", "1000.151")
    assert ask(manoir, "POST", "/admit", {"service": SANCTUM, "holder_pid": holder.pid})[0] == 200
    assert status(manoir)["free_mb"] == 4_152
    holder.kill()
    holder.wait()
    wait_until(lambda: status(manoir)["free_mb"] == 49_152)
