"""daemon: one run of it, as a process: how it starts, idles, goes by an edited file, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import daemons
from tests.daemons import (
    CAPACITY,
    Daemon,
    flagged,
    parse,
    prepared,
    read_all,
    request,
    running,
    service,
    sleeper,
    until,
)


@pytest.fixture
def unstarted(tmp_path: Path) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="a") as home:
        yield prepared(tmp_path, flagged("light", tmp_path), Path(home))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, sleeper("big", 1, 8000) + sleeper("other", 2, 8000) + flagged("light", tmp_path)) as up:
        yield up


def quiet(daemon: Daemon) -> bool:
    """Whether the log has nothing but what it says on starting, and of what outlasted its grace."""
    return all(re.match(r"admitd (\d|goes by )|Cancel \d running task", line) for line in daemon.log.splitlines())


class TestStarting:
    def test_says_where_it_listens_and_what_it_goes_by(self, daemon: Daemon) -> None:
        assert f"listens on http://127.0.0.1:{daemon.port} and {daemon.socket_path}\n" in daemon.log
        assert f"goes by {daemon.capacity_file}: host box, pool 10240 MB, 3 services, the largest 8000 MB" in daemon.log

    def test_listens_on_this_machine_only(self, daemon: Daemon) -> None:
        wanted = f":{daemon.port:04X}"
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if wanted in line]
        assert {each.partition(":")[0] for each in listening} == {"0100007F"}
        assert wanted not in Path("/proc/net/tcp6").read_text()

    def test_its_socket_is_its_owners_alone(self, daemon: Daemon) -> None:
        for path, mode in ((daemon.socket_path, 0o600), (daemon.places, 0o700), (daemon.places / "token", 0o600)):
            assert stat.S_IMODE(path.lstat().st_mode) == mode

    def test_status_comes_through_the_socket(self, daemon: Daemon) -> None:
        found = daemon.admit("status", "--json")
        assert found.returncode == 0 and json.loads(found.stdout)["pool_mb"] == 10240
        assert "no daemon" not in found.stderr

    def test_the_socket_has_the_same_doorkeeper(self, daemon: Daemon) -> None:
        for host, status in (("localhost", 200), ("evil.test", 421)):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(daemon.socket_path))
                line.sendall(request("GET", "/capacity", host=host))
                (reply,) = parse(read_all(line))
            assert reply.status == status

    def test_a_second_one_says_what_to_do_and_harms_nothing(self, daemon: Daemon) -> None:
        second = daemon.admit("daemon", "run", "--port", str(daemon.port))
        assert second.returncode == 1 and "Traceback" not in second.stderr
        for word in (f"127.0.0.1:{daemon.port}", "admit status", "--port N", "ADMIT_PORT=N"):
            assert word in second.stderr
        assert daemon.admit("status").returncode == 0 and daemon.socket_path.exists()

    def test_two_that_start_at_once_leave_one_that_works(self, tmp_path: Path) -> None:
        with running(tmp_path, flagged("light", tmp_path)) as first:
            assert first.stop() == 0
            command = [str(daemons.ADMIT), "daemon", "run", "--port", str(first.port)]
            both = [subprocess.Popen(command, env=first.environ, stderr=subprocess.PIPE) for _ in range(2)]
            try:
                until(lambda: any(each.poll() is not None for each in both), 30)
                assert sorted(str(each.poll()) for each in both) == ["1", "None"]
                until(first.socket_path.exists)
                assert "no daemon" not in until(lambda: first.admit("status")).stderr
            finally:
                for each in both:
                    each.kill()
                    each.communicate()

    def test_a_dead_ones_socket_is_replaced(self, daemon: Daemon) -> None:
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        assert daemon.socket_path.exists()
        daemon.start()
        assert "no daemon" not in daemon.admit("status").stderr

    def test_a_path_that_is_too_long_for_a_socket_is_done_without(self, unstarted: Daemon) -> None:
        home = unstarted.folder / ("x" * 100)
        home.mkdir()
        unstarted.environ["HOME"] = str(home)
        try:
            unstarted.start()
            assert f"listens on http://127.0.0.1:{unstarted.port}\n" in unstarted.log
            assert unstarted.ask("GET", "/healthz").status == 200
        finally:
            assert unstarted.stop() == 0

    @pytest.mark.parametrize(
        ("spoil", "code", "said"),
        [
            (lambda d: d.capacity_file.write_text("services: 1\n"), 78, "capacity.yaml"),
            (lambda d: d.capacity_file.unlink(), 66, "capacity.yaml"),
            (lambda d: d.state_folder.write_text(""), 1, "is not a folder"),
            (lambda d: d.environ.update(ADMIT_PROCESS_READER="guess"), 64, "ADMIT_PROCESS_READER='guess'"),
        ],
    )
    def test_what_cannot_be_gone_by_is_told(
        self, unstarted: Daemon, spoil: Callable[[Daemon], object], code: int, said: str
    ) -> None:
        spoil(unstarted)
        tried = unstarted.admit("daemon", "run", "--port", str(unstarted.port))
        assert said in tried.stderr and "Traceback" not in tried.stderr
        assert tried.returncode == code

    @pytest.mark.parametrize("mode", [0o644, 0o666, 0o620])
    def test_a_token_that_others_may_open_is_refused(self, unstarted: Daemon, mode: int) -> None:
        unstarted.places.mkdir(parents=True, mode=0o700)
        token = unstarted.places / "token"
        token.write_text("x" * 43)
        token.chmod(mode)
        tried = unstarted.admit("daemon", "run", "--port", str(unstarted.port))
        assert tried.returncode == 78 and f"chmod 600 {token}" in tried.stderr
        assert list(unstarted.places.iterdir()) == [token]


class TestIdling:
    def test_it_does_not_wake(self, daemon: Daemon) -> None:
        """Voluntary context switches of all its threads: none, over a second and a half of nothing to do."""
        daemon.capacity()

        def switches() -> int:
            tasks = Path(f"/proc/{daemon.pid}/task").iterdir()
            found = [re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (t / "status").read_text(), re.M) for t in tasks]
            return sum(int(each[1]) for each in found if each)

        def is_still() -> bool:
            before = switches()
            time.sleep(0.1)
            return switches() == before

        until(is_still)
        before = switches()
        time.sleep(1.5)
        assert switches() == before

    def test_five_hundred_requests_leave_no_descriptor_behind(self, daemon: Daemon) -> None:
        folder = f"/proc/{daemon.pid}/fd"

        def descriptors() -> int:
            found = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.lexists(f"{folder}/{fd}")]
            return sum(not each.endswith("/cmdline") for each in found)  # one is kept for each process it looks at

        for _ in range(5):
            daemon.capacity()
        before = descriptors()
        for _ in range(100):
            daemon.capacity()
            daemon.ask("GET", "/capacity", host="evil.test")
            daemon.raw(b"nonsense\r\n\r\n")
            admitted = daemon.ask("POST", "/admit", {"service": "big", "holder_pid": os.getpid()}).json()
            assert daemon.ask("DELETE", f"/reservations/{admitted['reservation']['id']}").status == 204
        until(lambda: descriptors() <= before + 1)

    def test_connections_that_are_broken_off_leave_no_descriptor_behind(self, daemon: Daemon) -> None:
        folder = f"/proc/{daemon.pid}/fd"
        daemon.capacity()
        before = len(os.listdir(folder))
        for _ in range(100):
            with daemon.line() as line:
                line.sendall(b"GET / HTTP/1.1\r\nHos")
        until(lambda: len(os.listdir(folder)) <= before + 5)


class TestAnEditedFile:
    def test_is_gone_by_at_the_next_request(self, daemon: Daemon) -> None:
        daemon.write(CAPACITY + flagged("fresh", daemon.folder, 300))
        assert [each["name"] for each in daemon.capacity()["services"]] == ["fresh"]
        assert daemon.ask("POST", "/admit", {"service": "big"}).status == 404
        assert daemon.ask("POST", "/admit", {"service": "fresh", "dry_run": True}).json()["budget_mb"] == 300

    def test_that_is_broken_is_told_of_once_and_the_last_good_one_stays(self, daemon: Daemon) -> None:
        good = daemon.capacity_file.read_text()
        daemon.write(good.replace("ram_budget_mb: 8000", "ram_budget_mb: much"))
        for _ in range(3):
            found = daemon.capacity()
            assert [each["name"] for each in found["services"]] == ["big", "other", "light"]
            assert "the last good one stays in force" in found["warnings"][0]
            lines = [number for number, line in enumerate(good.splitlines(), 1) if "8000" in line]
            for line, warning in zip(lines, found["warnings"][1:], strict=True):
                assert f"{daemon.capacity_file}:{line}:" in warning and "ram_budget_mb" in warning
        assert daemon.log.count("the last good one stays in force") == 1
        daemon.write(good)
        assert daemon.capacity()["warnings"] == []

    def test_that_others_may_write_to_is_not_gone_by(self, daemon: Daemon) -> None:
        daemon.capacity_file.chmod(0o664)  # first: the daemon may read it between any two of our steps
        daemon.capacity_file.write_text(CAPACITY + flagged("planted", daemon.folder))
        found = daemon.capacity()
        assert "planted" not in [each["name"] for each in found["services"]]
        assert any("chmod" in warning for warning in found["warnings"])
        daemon.capacity_file.chmod(0o600)
        found = daemon.capacity()
        assert [each["name"] for each in found["services"]] == ["planted"] and found["warnings"] == []

    def test_that_is_gone_is_told_of(self, daemon: Daemon) -> None:
        good = daemon.capacity_file.read_text()
        daemon.capacity_file.unlink()
        assert any("cannot be read" in warning for warning in daemon.capacity()["warnings"])
        daemon.write(good)
        assert daemon.capacity()["warnings"] == []

    def test_is_gone_by_for_what_is_under_way_as_well(self, daemon: Daemon) -> None:
        """A service that is taken out of the file while it is loaded is charged no longer, and nothing breaks."""
        assert daemon.act("/services/big/load").status == 200
        daemon.write(CAPACITY + flagged("light", daemon.folder))
        assert daemon.capacity()["charged_mb"] == 0 and daemon.act("/services/big/unload").status == 404


class TestEnding:
    @pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
    def test_is_clean(self, daemon: Daemon, sig: signal.Signals) -> None:
        daemon.capacity()
        assert daemon.stop(sig, 5.0) == 0
        assert sorted(path.name for path in daemon.places.iterdir()) == ["journal.jsonl", "journal.lock", "token"]
        assert quiet(daemon), daemon.log
        daemon.start()

    def test_is_clean_at_any_moment_of_its_start(self, unstarted: Daemon) -> None:
        command = [str(daemons.ADMIT), "daemon", "run", "--port", str(unstarted.port)]
        for _ in range(3):
            with subprocess.Popen(command, env=unstarted.environ, stderr=subprocess.PIPE) as process:
                until(unstarted.socket_path.exists, 30)
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=30)
                assert process.returncode == 0 and b"Traceback" not in said, said
            assert not unstarted.socket_path.exists()

    def test_a_waiting_request_is_answered_and_its_place_given_up(self, daemon: Daemon) -> None:
        daemon.ask("POST", "/admit", {"service": "big", "holder_pid": os.getpid()})
        with daemon.line() as line:
            line.sendall(request("POST", "/admit", {"service": "other", "wait_s": 600}))
            until(lambda: daemon.capacity()["waiting"])
            assert daemon.stop() == 0
            (reply,) = parse(read_all(line))
        assert reply.status == 409 and reply.json()["reason"] == "no-headroom"
        assert [name.split("~")[0] for name in daemon.records()] == ["held"]
        assert quiet(daemon), daemon.log

    def test_a_request_under_way_is_finished(self, tmp_path: Path) -> None:
        go = tmp_path / "go"
        asked_for = tmp_path / "asked"
        slow = service("slow", loaded_check_cmd=f"echo >> {asked_for}; until test -e {go}; do sleep 0.02; done; exit 1")
        with running(tmp_path, slow) as daemon, ThreadPoolExecutor(1) as pool:
            until(asked_for.exists)  # by the sentinel's first round; its next one is far
            before = asked_for.stat().st_size
            asked = pool.submit(daemon.ask, "GET", "/capacity")
            until(lambda: asked_for.stat().st_size > before)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            go.touch()
            assert asked.result().status == 200
            assert daemon.process.wait(10) == 0

    def test_what_it_started_goes_on_and_is_charged_throughout(self, tmp_path: Path) -> None:
        """The load outlives the daemon's grace. What is being loaded holds its reservation by itself."""
        up = tmp_path / "up"
        slow = daemons.nap(5)
        services = service(
            "slow", 8000, loaded_check_cmd=["test", "-e", str(up)], load_cmd=f"exec {slow}", load_timeout_s=120
        ) + sleeper("other", 2, 8000)
        with running(tmp_path, services) as daemon, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.act, "/services/slow/load")
            until(daemons.naps)
            assert daemon.stop(within_s=15.0) == 0
            reply = asked.result()
            assert (reply.status, reply.json()["title"]) == (503, "Stopping")
            assert quiet(daemon), daemon.log
            (pid,) = daemons.naps()
            os.kill(pid, 0)
            daemon.start()
            assert daemon.state("slow") == "reserved"
            assert daemon.ask("POST", "/admit", {"service": "other"}).json()["reason"] == "no-headroom"
            os.kill(pid, signal.SIGKILL)
            until(lambda: daemon.state("slow") == "stopped", 5)

    def test_what_it_loaded_goes_on(self, daemon: Daemon) -> None:
        assert daemon.act("/services/big/load").status == 200
        before = daemons.naps()
        blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{before[0]}/status").read_text(), re.M)
        assert blocked is not None and int(blocked[1], 16) == 0, "it can be ended like anything else"
        assert daemon.stop() == 0 and daemons.naps() == before
        daemon.start()
        assert daemon.state("big") == "loaded" and daemon.act("/services/big/unload").status == 200

    def test_idle_connections_do_not_hold_it_up(self, daemon: Daemon) -> None:
        with ExitStack() as lines:
            for sent in (b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                line = lines.enter_context(daemon.line())
                line.sendall(sent)
            assert line.recv(65_536)
            assert daemon.stop() == 0

    def test_a_second_signal_ends_it_at_once(self, daemon: Daemon) -> None:
        daemon.write(CAPACITY + service("never", loaded_check_cmd="false", load_cmd=f"exec {daemons.nap(6)}"))
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.act, "/services/never/load")
            until(daemons.naps)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            until(lambda: not daemon.socket_path.exists())
            assert daemon.stop() == 0
            asked.exception()

    def test_the_next_ones_socket_is_left_alone(self, daemon: Daemon) -> None:
        """The old one has let go of the port and is still at its last request when the new one starts."""
        daemon.write(CAPACITY + service("never", loaded_check_cmd="false", load_cmd=f"exec {daemons.nap(7)}"))
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.act, "/services/never/load")
            until(daemons.naps)
            old = daemon.process
            assert old is not None
            old.send_signal(signal.SIGTERM)
            until(lambda: _refuses(daemon.port))
            assert old.poll() is None, "it is still at its last request"
            daemon.start()
            assert old.wait(15) == 0
            asked.exception()
        assert daemon.socket_path.exists() and "no daemon" not in daemon.admit("status").stderr
        assert (daemon.places / f"admitd-{daemon.port}.note").read_text().startswith(f"{daemon.pid}\n")


def _refuses(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) != 0
