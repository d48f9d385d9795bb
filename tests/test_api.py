"""api: every route of a real daemon: what it answers, what it changes, and that every error has the one shape."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from admitd import api, capacity, memory, schemas
from admitd.acting import Acting
from admitd.core import wire
from admitd.doorkeeper import App, Doorkeeper
from admitd.eventstream import Streams
from admitd.flight import Flight
from admitd.gate import Gate
from admitd.journal import Journal
from admitd.processes.table import CannotSee
from admitd.reservations import Reservations
from tests import daemons
from tests.daemons import CAPACITY, Daemon, Door, Reply, flagged, nap, request, running, served, service, sleeper, until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("api")
    services = (
        sleeper("big", 1, 8000)
        + sleeper("other", 2, 8000, exclusive_with=["small"])
        + flagged("small", folder, 500)
        + flagged("light", folder, 500, priority=5)
        + service("broken", 100, loaded_check_cmd="false", load_cmd="echo no such weights; exit 3")
        + service("absent", 100, loaded_check_cmd="false", load_cmd=["/nowhere/at/all"])
        + service("byhand", 100, loaded_check_cmd="false")
        + service("endless", 100, loaded_check_cmd="false", load_cmd="echo still trying", load_timeout_s=1)
        + flagged("stubborn", folder, 100, unload_cmd="true", unload_timeout_s=1)
        + flagged("unwilling", folder, 100, unload_cmd="echo never; exit 4")
        + sleeper("loose", 4, 10, process_pattern=nap(4).replace(".", "[.]"))
        + sleeper("slow", 3, 100, loaded_check_cmd=["test", "-e", str(folder / "slow.flag")])
    )
    with running(folder, services) as up:
        yield up


@pytest.fixture(autouse=True)
def nothing_held(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves the module's daemon as it found it."""
    yield
    if "daemon" in request.fixturenames:
        up: Daemon = request.getfixturevalue("daemon")
        for held in up.capacity()["reservations"]:
            up.ask("DELETE", f"/reservations/{held['id']}")
        for flag in up.folder.glob("*.flag"):
            flag.unlink()
        daemons.end_naps()
        until(lambda: up.capacity()["charged_mb"] == 0)


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def shaped(reply: Reply, model: type[BaseModel], status: int = 200) -> Any:
    """The body, once it is seen to be exactly what the schema promises."""
    assert reply.status == status, reply
    body = reply.json()
    assert_shaped(body, model)
    assert reply.header("content-type") == (wire.PROBLEM_JSON if status >= 400 else "application/json")
    return body


def assert_shaped(body: dict[str, Any], model: type[BaseModel]) -> None:
    model.model_validate(body, strict=False)
    required = {name for name, each in model.model_fields.items() if each.is_required()}
    assert required <= set(body) <= set(model.model_fields)


def is_problem(reply: Reply, status: int) -> dict[str, Any]:
    body: dict[str, Any] = shaped(reply, schemas.ProblemBody, status)
    assert body["status"] == status and body["detail"] and body["title"]
    return body


class TestAsking:
    def test_capacity_has_the_promised_shape_throughout(self, daemon: Daemon, holder: subprocess.Popen[bytes]) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})
        body = shaped(daemon.ask("GET", "/capacity"), schemas.Capacity)
        assert (body["pool_mb"], body["charged_mb"], body["free_mb"]) == (10240, 8000, 2240)
        for each in body["services"]:
            assert_shaped(each, schemas.Service)
        for each in body["reservations"]:
            assert_shaped(each, schemas.Reservation)
        assert_shaped(body["pressure"], schemas.Pressure)
        assert {each["name"]: each["state"] for each in body["services"]}["big"] == "reserved"

    def test_healthz_says_ok_while_the_processes_can_be_seen(self, daemon: Daemon) -> None:
        body = shaped(daemon.ask("GET", "/healthz"), schemas.Health)
        assert body["status"] == "ok" and body["processes"] > 1

    def test_an_admission_reserves_for_its_holder_and_is_given_back(
        self, daemon: Daemon, holder: subprocess.Popen[bytes]
    ) -> None:
        admitted = shaped(
            daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid}), schemas.VerdictBody
        )
        held = admitted["reservation"]
        assert admitted["verdict"] == "admitted" and held["holder_pid"] == holder.pid
        assert daemon.capacity()["reservations"] == [held]
        given_back = daemon.ask("DELETE", f"/reservations/{held['id']}")
        assert (given_back.status, given_back.body) == (204, b"")
        assert is_problem(daemon.ask("DELETE", f"/reservations/{held['id']}"), 404)["title"] == "No such reservation"
        assert daemon.capacity()["charged_mb"] == 0

    def test_a_refusal_carries_everything_a_caller_needs(self, daemon: Daemon, holder: subprocess.Popen[bytes]) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})
        reply = daemon.ask("POST", "/admit", {"service": "other"})
        body = shaped(reply, schemas.RefusalBody, 409)
        assert (body["reason"], body["shortfall_mb"]) == ("no-headroom", 5760)
        assert [each["service"] for each in body["blockers"]] == ["big"]
        for each in body["blockers"]:
            assert_shaped(each, schemas.Blocker)
        assert body["type"] == "urn:admit:refusal:no-headroom"

    def test_a_loaded_service_is_already_loaded(self, daemon: Daemon) -> None:
        assert daemon.act("/services/small/load").status == 200
        body = shaped(daemon.ask("POST", "/admit", {"service": "small"}), schemas.VerdictBody)
        assert (body["verdict"], body["state"], body["reservation"]) == ("already_loaded", "loaded", None)

    def test_a_dry_run_reserves_nothing(self, daemon: Daemon) -> None:
        body = shaped(
            daemon.ask("POST", "/admit", {"service": "big", "dry_run": True, "wait_s": 30}), schemas.VerdictBody
        )
        assert body["verdict"] == "admitted" and daemon.records() == []

    def test_a_reservation_ends_with_its_holder(self, daemon: Daemon) -> None:
        with subprocess.Popen(["sleep", "600"]) as short_lived:
            daemon.ask("POST", "/admit", {"service": "big", "holder_pid": short_lived.pid})
            assert daemon.state("big") == "reserved"
            short_lived.kill()
        assert daemon.state("big") == "stopped"

    def test_a_holder_that_is_not_alive_is_malformed(self, daemon: Daemon) -> None:
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        for pid in (gone.pid, 2**31 - 1):
            assert (
                "no live process"
                in is_problem(daemon.ask("POST", "/admit", {"service": "big", "holder_pid": pid}), 422)["detail"]
            )

    def test_plan_names_the_victims_and_changes_nothing(self, daemon: Daemon) -> None:
        daemon.act("/services/small/load")
        before = daemon.records()
        body = shaped(daemon.ask("GET", "/plan?service=other"), schemas.Plan)
        assert (body["fits"], body["reason"], body["victims"]) == (False, "exclusive", ["small"])
        assert body["remedy"].endswith("unload small") and daemon.records() == before
        assert shaped(daemon.ask("GET", "/plan?service=big"), schemas.Plan)["fits"] is True

    def test_an_undeclared_service_is_told_what_was_meant(self, daemon: Daemon) -> None:
        assert "Did you mean small" in is_problem(daemon.ask("POST", "/admit", {"service": "smal"}), 404)["detail"]
        assert "Did you mean small" in is_problem(daemon.ask("GET", "/plan?service=smal"), 404)["detail"]
        assert "Did you mean small" in is_problem(daemon.act("/services/smal/load"), 404)["detail"]
        assert "Did you mean small" in is_problem(daemon.act("/services/smal/unload"), 404)["detail"]

    def test_a_get_changes_nothing(self, daemon: Daemon, holder: subprocess.Popen[bytes]) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})

        def everything() -> list[tuple[str, int, int]]:
            found = [*daemon.state_folder.rglob("*"), *daemon.places.rglob("*")]
            return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found)

        before = everything()
        for path in ("/capacity", "/plan?service=other", "/plan?service=nobody", "/healthz", "/openapi.json"):
            for method in ("GET", "HEAD"):
                daemon.ask(method, path)
        daemon.ask("GET", "/admit?service=other")
        assert everything() == before

    def test_head_answers_as_get_does_without_the_body(self, daemon: Daemon) -> None:
        for path in ("/capacity", "/healthz", "/plan?service=big", "/openapi.json"):
            head = daemon.ask("HEAD", path)
            assert (head.status, head.body) == (200, b"") and int(head.header("content-length") or 0) > 10
        assert daemon.ask("HEAD", "/nowhere").status == 404
        assert daemon.ask("HEAD", "/admit").status == 405

    def test_no_answer_holds_a_command_line_of_another_process(self, daemon: Daemon) -> None:
        secret = "password-of-somebody"
        mention = ["python3", "-c", "import time; time.sleep(600)", secret, *nap(4).split()]
        title = f"{secret} {nap(4)}"  # what setproctitle does: all of it in argv[0]
        path = f"/x/{secret}/y {nap(4)}"
        with ExitStack() as strangers:
            for line in (mention, [title, "-c", "import time; time.sleep(600)"], [path, "-c", "input()"]):
                stranger = strangers.enter_context(
                    subprocess.Popen(line, executable=sys.executable, stdin=subprocess.PIPE)
                )
                strangers.callback(stranger.kill)

            def seen() -> int:
                (loose,) = [each for each in daemon.capacity()["services"] if each["name"] == "loose"]
                return len(loose["pids"]) + len(loose["mentioned_by"])

            until(lambda: seen() == 3)
            for path in ("/capacity", "/plan?service=loose", "/plan?service=big", "/healthz"):
                assert secret not in daemon.ask("GET", path).body.decode()
            for path in ("/services/loose/unload", "/services/loose/load"):
                assert secret not in daemon.act(path).body.decode()


class TestWaiting:
    def test_who_waits_is_admitted_when_there_is_room(self, daemon: Daemon, holder: subprocess.Popen[bytes]) -> None:
        first = daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid}).json()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                daemon.ask, "POST", "/admit", {"service": "other", "holder_pid": os.getpid(), "wait_s": 30}
            )
            until(lambda: daemon.capacity()["waiting"])
            assert daemon.capacity()["waiting"] == [{"service": "other", "priority": 0, "holder_pid": os.getpid()}]
            daemon.ask("DELETE", f"/reservations/{first['reservation']['id']}")
            assert waiting.result().json()["verdict"] == "admitted"
        assert daemon.capacity()["waiting"] == []

    def test_who_has_waited_long_enough_is_refused_and_out_of_the_queue(
        self, daemon: Daemon, holder: subprocess.Popen[bytes]
    ) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})
        body = shaped(daemon.ask("POST", "/admit", {"service": "other", "wait_s": 0.2}), schemas.RefusalBody, 409)
        assert body["queue_position"] == 1
        assert daemon.capacity()["waiting"] == []

    def test_a_waiting_client_that_dies_leaves_the_queue_at_once(
        self, daemon: Daemon, holder: subprocess.Popen[bytes]
    ) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})
        with daemon.line() as line:
            line.sendall(request("POST", "/admit", {"service": "other", "wait_s": 600}))
            until(lambda: daemon.capacity()["waiting"])
        until(lambda: not daemon.capacity()["waiting"], 2.0)
        assert [name for name in daemon.records() if name.startswith("waiting")] == []


class TestErrors:
    """The same few mistakes at every route."""

    ROUTES: tuple[tuple[str, str, dict[str, object] | None], ...] = (
        ("POST", "/admit", {"service": "big", "dry_run": True}),
        ("GET", "/capacity", None),
        ("GET", "/plan?service=big", None),
        ("DELETE", "/reservations/0123456789abcdef", None),
        ("POST", "/services/big/load", {}),
        ("POST", "/services/big/unload", {}),
        ("GET", "/events?limit=5", None),
        ("GET", "/healthz", None),
        ("GET", "/openapi.json", None),
    )
    POSTS = tuple(path for method, path, _ in ROUTES if method == "POST")

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_foreign_host_is_misdirected(self, daemon: Daemon, method: str, path: str, body: object) -> None:
        is_problem(daemon.ask(method, path, body, host="evil.test"), 421)
        is_problem(daemon.ask(method, path, body, host=None), 400)

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_foreign_page_is_forbidden(self, daemon: Daemon, method: str, path: str, body: object) -> None:
        is_problem(daemon.ask(method, path, body, headers={"Origin": "http://evil.test"}), 403)

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_another_method_is_not_offered(self, daemon: Daemon, method: str, path: str, body: object) -> None:
        for other in ("PATCH", "OPTIONS", "TRACE"):
            reply = daemon.ask(other, path)
            is_problem(reply, 405)
            assert method in (reply.header("allow") or "").split(", ")

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_path_beside_it_is_not_there(self, daemon: Daemon, method: str, path: str, body: object) -> None:
        bare = path.partition("?")[0]
        for beside in (f"{bare}/", f"/{bare}", f"{bare}x/y", f"/x/..{bare}", f"{bare}%00", bare.upper()):
            is_problem(daemon.ask(method, beside, body), 404 if method != "DELETE" or "%00" not in beside else 422)

    @pytest.mark.parametrize(("method", "path", "body"), ROUTES)
    def test_a_path_that_is_too_long_is_told_so(self, daemon: Daemon, method: str, path: str, body: object) -> None:
        is_problem(daemon.ask(method, f"{path}?{'x' * 2100}", body), 414)

    @pytest.mark.parametrize("path", POSTS)
    def test_a_post_is_json(self, daemon: Daemon, path: str) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            is_problem(daemon.ask("POST", path, b"{}", headers={"Content-Type": kind}), 415)

    @pytest.mark.parametrize("path", POSTS)
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 422),
            (b"{", 400),
            (b'{"service": "\xff"}', 400),
            (b"[" * 30_000, 400),
            (b"[]", 422),
            (b'"x"', 422),
            (b"null", 422),
            (b'{"no such key": 1}', 422),
            (b"x" * 70_000, 413),
        ],
    )
    def test_a_body_that_is_not_right(self, daemon: Daemon, path: str, body: bytes, status: int) -> None:
        headers = {"Authorization": f"Bearer {daemon.token}"}
        is_problem(daemon.ask("POST", path, body, headers=headers), status)

    @pytest.mark.parametrize(
        "body",
        [
            {"service": ""},
            {"service": "x" * 64},
            {"service": 1},
            {"service": None},
            {"service": "big", "holder_pid": 0},
            {"service": "big", "holder_pid": -1},
            {"service": "big", "holder_pid": 2**31},
            {"service": "big", "holder_pid": 1.5},
            {"service": "big", "holder_pid": True},
            {"service": "big", "dry_run": 1},
            {"service": "big", "wait_s": -1},
            {"service": "big", "wait_s": 86_401},
            {"service": "big", "wait_s": float("inf")},
            {"service": "big", "wait_s": float("nan")},
            {"service": "big", "wait_s": "1"},
            {"service": "big", "more": 1},
        ],
    )
    def test_a_request_for_admission_that_is_malformed(self, daemon: Daemon, body: dict[str, object]) -> None:
        is_problem(daemon.ask("POST", "/admit", body), 422)
        assert daemon.capacity()["reservations"] == []

    @pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a\r\nX-Evil: 1", "../../etc", "\ud800", "\x00"])
    def test_names_that_hope_to_be_believed(self, daemon: Daemon, name: str) -> None:
        reply = daemon.ask("POST", "/admit", {"service": name})
        is_problem(reply, 422 if name == "\ud800" else 404)
        assert reply.header("x-evil") is None and reply.header("x-content-type-options") == "nosniff"

    def test_names_in_paths_that_hope_to_be_believed(self, daemon: Daemon) -> None:
        for name in ("%3Cscript%3E", "a%0d%0aX-Evil:1", "%2e%2e", ".x", "-x", "x" * 64):
            is_problem(daemon.act(f"/services/{name}/load"), 422)
            is_problem(daemon.act(f"/services/{name}/unload"), 422)
        is_problem(daemon.act("/services/..%2f..%2fadmit/load"), 404)
        for id in ("x", "0123456789abcdeg", "0123456789ABCDEF", "0123456789abcdef0", "..%2f..%2flock"):
            is_problem(daemon.ask("DELETE", f"/reservations/{id}"), 404 if "%2f" in id else 422)

    def test_a_long_list_of_mistakes_is_cut(self, daemon: Daemon) -> None:
        body = {"x" * 2000 + str(number): 1 for number in range(25)}
        assert len(is_problem(daemon.ask("POST", "/admit", body), 422)["detail"]) < 5000

    @pytest.mark.parametrize("path", ["/services/big/load", "/services/big/unload"])
    def test_what_acts_needs_the_token(self, daemon: Daemon, path: str) -> None:
        token = daemon.token
        for given in (None, "", token[:-1], token + "x", token.lower(), token[::-1], "ümlaut"):
            headers = {} if given is None else {"Authorization": f"Bearer {given}"}
            reply = daemon.ask("POST", path, {}, headers=headers)
            is_problem(reply, 401)
            assert reply.header("www-authenticate") == "Bearer"
        for headers in ({"Authorization": token}, {"Authorization": f"Basic {token}"}, {"Cookie": f"token={token}"}):
            is_problem(daemon.ask("POST", path, {}, headers=headers), 401)
        is_problem(daemon.ask("POST", f"{path}?token={token}", {}), 401)
        assert daemons.naps() == []

    def test_a_retry_after_stands_only_where_time_helps(self, daemon: Daemon, holder: subprocess.Popen[bytes]) -> None:
        hopeless = [
            daemon.ask("POST", "/admit", {"service": "nobody"}),
            daemon.ask("POST", "/admit", {}),
            daemon.ask("POST", "/services/big/load", {}),
            daemon.ask("GET", "/capacity", host="evil.test"),
            daemon.ask("PATCH", "/capacity"),
            daemon.act("/services/broken/load"),
        ]
        assert [reply.header("retry-after") for reply in hopeless] == [None] * len(hopeless)
        daemon.act("/services/small/load")
        exclusive = daemon.ask("POST", "/admit", {"service": "other"})
        assert exclusive.json()["reason"] == "exclusive" and exclusive.header("retry-after") is None
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": holder.pid})
        loading = daemon.ask("POST", "/admit", {"service": "big", "holder_pid": os.getpid()})
        assert loading.json()["reason"] == "loading" and int(loading.header("retry-after") or 0) >= 1


class TestActing:
    def test_a_service_is_loaded_and_unloaded(self, daemon: Daemon) -> None:
        up = shaped(daemon.act("/services/big/load"), schemas.Loaded)
        assert up["outcome"] == "loaded" and up["pids"] == daemons.naps()
        assert daemon.records() == [] and daemon.state("big") == "loaded"
        assert shaped(daemon.act("/services/big/load"), schemas.Loaded)["outcome"] == "already_loaded"
        refused = shaped(daemon.act("/services/other/load"), schemas.RefusalBody, 409)
        assert refused["victims"] == ["big"] and refused["remedy"].endswith("unload big")
        down = shaped(daemon.act("/services/big/unload"), schemas.Unloaded)
        assert down["outcome"] == "unloaded" and daemons.naps() == []
        assert shaped(daemon.act("/services/big/unload"), schemas.Unloaded)["outcome"] == "not_loaded"

    def test_what_the_daemon_started_leaves_no_zombie(self, daemon: Daemon) -> None:
        daemon.act("/services/big/load")
        (pid,) = daemons.naps()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), 5.0)

    def test_a_failing_load_says_what_it_said_and_holds_nothing(self, daemon: Daemon) -> None:
        body = shaped(daemon.act("/services/broken/load"), schemas.FailedLoadBody, 502)
        assert "exit 3" in body["detail"] and body["log"] == ["no such weights"]
        assert daemon.records() == [] and daemon.state("broken") == "stopped"

    def test_a_load_command_that_cannot_start(self, daemon: Daemon) -> None:
        for name, said in (("absent", "/nowhere/at/all cannot be run"), ("byhand", "has no load_cmd")):
            assert said in shaped(daemon.act(f"/services/{name}/load"), schemas.FailedLoadBody, 502)["detail"]
        assert daemon.records() == []

    def test_a_load_that_is_out_of_time(self, daemon: Daemon) -> None:
        body = shaped(daemon.act("/services/endless/load"), schemas.FailedLoadBody, 504)
        assert "within 1 s" in body["detail"] and body["log"] == ["still trying"]
        assert daemon.records() == []

    def test_an_unload_that_is_out_of_time_or_refused(self, daemon: Daemon) -> None:
        daemon.act("/services/stubborn/load")
        assert "still there" in shaped(daemon.act("/services/stubborn/unload"), schemas.StuckBody, 504)["detail"]
        daemon.act("/services/unwilling/load")
        assert "never" in is_problem(daemon.act("/services/unwilling/unload"), 502)["detail"]

    def test_one_act_at_a_time_for_each_service(self, daemon: Daemon) -> None:
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(daemon.act, "/services/slow/load")
            until(lambda: daemon.state("slow") == "half_loaded")
            for path in ("/services/slow/load", "/services/slow/unload"):
                reply = daemon.act(path)
                assert is_problem(reply, 409)["title"] == "Somebody is at it"
                assert reply.header("retry-after") == "1"
            assert daemon.act("/services/small/load").status == 200, "other services do not wait for it"
            (daemon.folder / "slow.flag").touch()
            assert loading.result().json()["outcome"] == "loaded"

    def test_many_loads_under_way_keep_nothing_waiting(self, daemon: Daemon) -> None:
        """More than a default thread pool has threads for."""
        names = [f"waits{number}" for number in range(12)]
        flags = daemon.folder / "all.flag"
        before = daemon.capacity_file.read_text()
        check = ["test", "-e", str(flags)]
        daemon.write(before + "".join(service(n, 1, loaded_check_cmd=check, load_cmd="true") for n in names))
        try:
            with ThreadPoolExecutor(len(names)) as pool:
                loads = [pool.submit(daemon.act, f"/services/{name}/load") for name in names]
                until(lambda: sum(s["state"] == "reserved" for s in daemon.capacity()["services"]) == len(names))
                assert daemon.act("/services/small/load", timeout_s=10).status == 200
                assert daemon.act("/services/small/unload", timeout_s=10).status == 200
                flags.touch()
                assert {load.result().json()["outcome"] for load in loads} == {"loaded"}
        finally:
            daemon.write(before)

    def test_the_same_service_twice_at_once_is_started_once(self, daemon: Daemon) -> None:
        barrier = threading.Barrier(4)

        def load() -> Reply:
            barrier.wait()
            return daemon.act("/services/big/load")

        with ThreadPoolExecutor(4) as pool:
            replies = [each.result() for each in [pool.submit(load) for _ in range(4)]]
        outcomes = sorted(reply.json().get("outcome") or reply.json()["title"] for reply in replies)
        assert outcomes.count("loaded") == 1 and len(daemons.naps()) == 1
        assert set(outcomes) <= {"loaded", "already_loaded", "Somebody is at it"}


class _Blind:
    """A process table that cannot be read."""

    problem: Exception = CannotSee("/proc is not mounted here")

    def look(self, *_: object) -> Any:
        raise self.problem

    def identify(self, *_: object) -> Any:
        raise self.problem

    again = identify


def _application(folder: Path, table: Any) -> Callable[[int], App]:
    path = folder / "capacity.yaml"
    path.write_text(CAPACITY + sleeper("x", 9))
    path.chmod(0o600)
    loaded = capacity.load(path)
    records = Reservations(folder / "state", lambda pid: None, shared=False)
    records.prepare()
    flight = Flight(Gate(lambda: (loaded, ()), table, memory.for_this_system(), records))
    acting = Acting(flight, {"HOME": str(folder)})
    streams = Streams(Journal(folder / "journal.jsonl"))
    return lambda port: Doorkeeper(api.build(flight, acting, streams, "the-token-of-this-test", ""), port)


@pytest.fixture
def blind(tmp_path: Path) -> Iterator[Door]:
    with served(_application(tmp_path, _Blind())) as door:
        door.token = "the-token-of-this-test"
        yield door


class TestWhatCannotBeSeen:
    def test_healthz_and_capacity_say_so(self, blind: Door) -> None:
        for path in ("/healthz", "/capacity"):
            reply = blind.ask("GET", path)
            assert "/proc is not mounted here" in is_problem(reply, 503)["detail"]
            assert reply.header("retry-after") == "5"

    def test_nothing_is_admitted(self, blind: Door) -> None:
        body = shaped(blind.ask("POST", "/admit", {"service": "x"}), schemas.RefusalBody, 409)
        assert body["reason"] == "unseen" and "/proc is not mounted here" in body["detail"]
        assert shaped(blind.ask("GET", "/plan?service=x"), schemas.Plan)["fits"] is False
        is_problem(blind.ask("POST", "/admit", {"service": "x", "holder_pid": os.getpid()}), 503)

    def test_nothing_is_acted_on(self, blind: Door) -> None:
        is_problem(blind.act("/services/x/load"), 503)
        is_problem(blind.act("/services/x/unload"), 503)
        assert daemons.naps() == []

    def test_a_fault_of_our_own_is_a_problem_too(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_Blind, "problem", ZeroDivisionError("oh"))
        with served(_application(tmp_path, _Blind())) as door:
            door.token = "the-token-of-this-test"
            for method, path, body in TestErrors.ROUTES:
                if path in ("/openapi.json", "/events?limit=5", "/reservations/0123456789abcdef"):
                    continue
                asked = {"service": "x"} if path == "/admit" else body
                headers = {"Authorization": f"Bearer {door.token}"}
                found = is_problem(door.ask(method, path.replace("big", "x"), asked, headers=headers), 500)
                assert "oh" not in found["detail"]
            assert "ZeroDivisionError: oh" in caplog.text, "the log has the particulars"
            assert door.ask("GET", "/openapi.json").status == 200, "and it goes on"

    def test_reservations_that_cannot_be_used_are_told_of(self, tmp_path: Path) -> None:
        with served(_application(tmp_path, _Blind())) as door:
            folder = tmp_path / "state"
            for entry in folder.iterdir():
                entry.unlink()
            folder.rmdir()
            folder.write_text("in the way")
            reply = door.ask("GET", "/capacity")
            assert str(folder) in is_problem(reply, 503)["detail"] and reply.header("retry-after") is None
