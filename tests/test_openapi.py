"""/openapi.json: says what the daemon does. schemathesis asks the daemon whatever the document allows and forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admitd import schemas
from admitd.core import wire
from tests.daemons import Daemon, flagged, running

ST = Path(sys.executable).with_name("schemathesis")
SETTINGS = """
# That holder_pid, or pid, names a live process can be said in no schema.
[[operations]]
include-path-regex = "/(admit|apps/.*)"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]
"""
A_SERVICE_THAT_IS_THERE = """
[[operations]]
include-path-regex = "/services/.*"
parameters = { "path.name" = "light" }

[[operations]]
include-path = "/plan"
parameters = { "query.service" = "light" }
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("openapi")
    services = flagged("light", folder, 100) + flagged("0", folder, 100)
    with running(folder, services) as up:
        yield up


@pytest.fixture(scope="module")
def document(daemon: Daemon) -> dict[str, Any]:
    reply = daemon.ask("GET", "/openapi.json")
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", A_SERVICE_THAT_IS_THERE], ids=["any names", "a service that is there"])
def test_schemathesis_finds_nothing(daemon: Daemon, tmp_path: Path, more: str) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(SETTINGS + more)
    words = [str(ST), "--config-file", str(config), "run", f"http://127.0.0.1:{daemon.port}/openapi.json"]
    words += ["--header", f"Authorization: Bearer {daemon.token}", "--max-examples", "30", "--checks", "all"]
    words += ["--mode", "all", "--request-timeout", "10", "--seed", "7", "--no-color"]
    # It keeps notes in the working folder.
    found = subprocess.run(
        words, capture_output=True, text=True, timeout=110, cwd=tmp_path, env=_environ(tmp_path), check=False
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:] + daemon.log[-2000:]
    assert f"Tested: {len(schemas.ANSWERS)}" in found.stdout and "Traceback" not in daemon.log


def _environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONWARNINGS": "ignore"}


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    found = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert found == set(schemas.ANSWERS)


def test_every_answer_is_described_in_its_own_kind(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for code, answer in operation["responses"].items():
                kinds = list(answer.get("content", {}))
                wanted = [wire.PROBLEM_JSON] if int(code) >= 400 else ["application/json"]
                wanted = ["text/plain"] if (path, code) == ("/metrics", "200") else wanted
                wanted += ["text/event-stream"] if (path, code) == ("/events", "200") else []
                assert kinds == (wanted if code != "204" else []), (method, path, code)
            assert {"400", "403", "421", "500", "503"} <= set(operation["responses"])


def test_every_post_wants_a_body(document: dict[str, Any]) -> None:
    """The doorkeeper lets a POST without any body in; a page of another site could send one (doorkeeper._is_json)."""
    posts = [operations["post"] for operations in document["paths"].values() if "post" in operations]
    assert posts and all(each["requestBody"]["required"] is True for each in posts)
    assert all(list(each["requestBody"]["content"]) == ["application/json"] for each in posts)


def test_what_acts_names_the_token(document: dict[str, Any]) -> None:
    scheme = document["components"]["securitySchemes"]["HTTPBearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    secured = {path for path, ops in document["paths"].items() for each in ops.values() if each.get("security")}
    assert secured == {"/services/{name}/load", "/services/{name}/unload"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    shapes = document["components"]["schemas"]

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            for each in node.values():
                yield from references(each)
        elif isinstance(node, list):
            for each in node:
                yield from references(each)

    named = {each.removeprefix("#/components/schemas/") for each in references(document)}
    assert named == set(shapes), "and nothing is described that is never answered"


def test_the_shapes_are_made_only_when_asked_for() -> None:
    """They cost a third of the time that a daemon's start takes beyond FastAPI's own."""
    code = "import sys, admitd.daemon, admitd.api, admitd.acting; sys.exit('admitd.schemas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
