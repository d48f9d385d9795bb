"""Looking at activity: processes, sockets and metrics that are real; the services' judgement is in tests/core."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admitd import ownmetrics
from admitd.activity import ActivityWatch
from admitd.core import ledger as ledgers
from admitd.core.terms import Check, Probe, Process, ProcessId, Reading, Sighting, View
from admitd.gate import Scene
from admitd.ownmetrics import NoAnswer, NotTold, Said
from admitd.processes import cputime
from admitd.processes.cputime import DarwinCpuTimes, LinuxCpuTimes, Times
from admitd.processes.ps import identify
from admitd.processes.sockets import Sockets
from admitd.processes.table import Look
from tests.core.worlds import capacity, service

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def me() -> ProcessId:
    found = identify(os.getpid())
    assert found is not None
    return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeTimes:
    """Processor time by pid, as the test sets it."""

    def __init__(self) -> None:
        self.taken: dict[int, float] | None = {}

    def of(self, processes: Iterable[ProcessId], without: Collection[int] = ()) -> Times | None:
        taken = self.taken
        return None if taken is None else {each: taken.get(each.pid, 0.0) for each in processes}


class NoSockets(Sockets):
    def connections(self, processes: object) -> int | None:
        return 0


PROBE = Probe("http://127.0.0.1:8080/v1/completions", "POST", {}, 200, 10.0, 0.0)


def scene(*processes: Process, mention: bool = False, check: bool | None = None, **fields: Any) -> Scene:
    """A host with one service, `x`, that has these processes."""
    declared = capacity(service("x", probe=fields.pop("probe", PROBE), **fields))
    seen = tuple(Sighting("x", process, mention, "x") for process in processes)
    checks = {} if check is None else {"x": Check("x", check)}
    view = View(sightings=seen, checks=checks)
    return Scene(ledgers.derive(declared, view), Reading(), Look(len(seen), seen), 0.0, 0.0, ())


SERVER = Process(ProcessId(4242, 7), 1000)


class Watched:
    """An ActivityWatch whose world is a few variables."""

    def __init__(self) -> None:
        self.clock, self.times = Clock(), FakeTimes()
        self.answer: Said | Exception = NotTold()
        self.asked = 0
        self.watch = ActivityWatch(self.times, NoSockets(), self.ask, self.clock)

    def ask(self, host: str, port: int) -> Said:
        self.asked += 1
        assert (host, port) == ("127.0.0.1", 8080)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def look(self, at_s: float, seen: Scene | None = None) -> Any:
        self.clock.now = at_s
        return self.watch.look(scene(SERVER) if seen is None else seen, at_s)["x"]


def test_a_service_that_is_not_loaded_does_nothing() -> None:
    assert Watched().look(0, scene()).busy is False


def test_a_service_seen_by_its_check_alone_is_unknown() -> None:
    assert Watched().look(0, scene(check=True)).busy is None


def test_what_only_mentions_a_service_is_not_its_activity() -> None:
    watched = Watched()
    watched.times.taken = {SERVER.id.pid: 99.0}
    assert watched.look(0, scene(SERVER, mention=True)).busy is False
    assert watched.watch.progress("x") is None


def test_processor_time_makes_it_busy_and_its_absence_idle() -> None:
    watched = Watched()
    assert watched.look(0).busy is None
    assert watched.look(10).busy is False
    watched.times.taken = {SERVER.id.pid: 3.0}
    busy = watched.look(20)
    assert (busy.busy, busy.last_active_s, busy.cpu_s) == (True, 20, 3.0)


def test_unreadable_processor_time_is_unknown_and_no_progress_is_told() -> None:
    watched = Watched()
    watched.look(0)
    watched.times.taken = None
    assert watched.look(10).busy is None
    assert watched.watch.progress("x") is None


def test_progress_counts_ticks_and_what_the_server_counts() -> None:
    """Also where the server's own count starts anew: progress never falls."""
    watched = Watched()
    watched.answer = Said(True, 100)
    watched.look(0)
    before = watched.watch.progress("x")
    watched.answer, watched.times.taken = Said(True, 130), {SERVER.id.pid: 0.5}
    assert watched.watch.progress("x") == before + 30 + 50
    watched.answer = Said(True, 4)
    assert watched.watch.progress("x") == before + 34 + 50
    watched.answer = NoAnswer()
    assert watched.watch.progress("x") == before + 34 + 50
    assert watched.watch.progress("nobody") is None


def test_a_server_without_metrics_is_asked_once() -> None:
    watched = Watched()
    for at_s in range(0, 300, 10):
        watched.look(at_s)
    assert watched.asked == 1
    watched.look(300, scene(Process(ProcessId(4343, 8), 1000)))
    assert watched.asked == 2, "another process may be another server"


def test_a_server_that_never_answered_is_left_in_peace_for_a_minute() -> None:
    watched = Watched()
    watched.answer = NoAnswer()
    for at_s in range(0, 121, 10):
        watched.look(at_s)
    assert watched.asked == 3


def test_a_stopped_server_is_not_asked() -> None:
    watched = Watched()
    watched.look(0, scene(Process(SERVER.id, 1000, stopped=True)))
    assert watched.asked == 0


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8080/x", "https://127.0.0.1/x", "http://example.com/", "http://[::1"]
)
def test_only_plain_http_on_this_machine_is_asked(url: str) -> None:
    assert ownmetrics.origin(url) is None


def test_metrics_that_fall_silent_leave_it_unknown() -> None:
    watched = Watched()
    watched.answer = Said(False, 1)
    watched.look(0)
    assert watched.look(10).busy is False
    watched.answer = NoAnswer()
    assert watched.look(20).busy is None


def test_our_own_probe_is_no_activity() -> None:
    watched = Watched()
    watched.answer = Said(False, 1)
    watched.look(0)
    with watched.watch.own_probe("x"):
        watched.clock.now, watched.answer, watched.times.taken = 10.0, Said(False, 2), {SERVER.id.pid: 4.0}
        watched.clock.now = 1.0
    assert watched.look(10).busy is False
    watched.answer = Said(False, 3)
    assert watched.look(20).busy is True, "the next request is somebody else's"


def test_a_look_during_our_own_probe_says_nothing() -> None:
    watched = Watched()
    watched.look(0)
    with watched.watch.own_probe("x"):
        watched.times.taken = {SERVER.id.pid: 0.5}
        assert watched.look(1).busy is None
    assert watched.look(10).busy is False


def test_a_probe_that_is_late_waits_for_the_work_of_others() -> None:
    watched = Watched()
    watched.look(0)
    with watched.watch.own_probe("x"):
        watched.times.taken = {SERVER.id.pid: 9.0}
        watched.clock.now = 9.0
    assert watched.look(10).busy is True


@linux
def test_processor_time_of_a_process_and_its_children() -> None:
    """A child's work is its parent's, whichever thread started it; unless it is another service."""
    working = "t=__import__('time'); e=t.process_time\nwhile e() < 0.1: pass\nprint('worked', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", working], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "worked\n"
        told = LinuxCpuTimes().of([me()])
        without = LinuxCpuTimes().of([me()], {child.pid})
        child.communicate("\n")
    assert told is not None
    assert without is not None
    # This process may have other children, which other tests have left to end by themselves.
    assert {each.pid for each in told} >= {os.getpid(), child.pid}
    assert os.getpid() in {each.pid for each in without}
    assert child.pid not in {each.pid for each in without}
    assert next(seconds for each, seconds in told.items() if each.pid == child.pid) >= 0.09


@linux
def test_a_pid_that_is_another_by_now_has_no_time() -> None:
    assert LinuxCpuTimes().of([ProcessId(os.getpid(), 1), ProcessId(1 << 22, 5)]) == {}


@pytest.mark.parametrize("stat", [b"", b"10 (x) S 1", b"10 (x) " + b"x " * 30])
def test_a_stat_that_is_none_is_unknown(tmp_path: Path, stat: bytes) -> None:
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "stat").write_bytes(stat)
    assert LinuxCpuTimes(str(tmp_path)).of([ProcessId(10, 5)]) is None


def test_a_system_that_is_not_told_knows_nothing() -> None:
    assert cputime.Untold().of([me()]) is None


class FakeLibC:
    """libproc as XNU's source has it: one parent with one child; ticks of 125/3 ns, as on Apple silicon."""

    def mach_timebase_info(self, buffer: Any) -> int:
        buffer[:8] = (125).to_bytes(4, sys.byteorder) + (3).to_bytes(4, sys.byteorder)
        return 0

    def proc_pid_rusage(self, pid: Any, flavor: Any, buffer: Any) -> int:
        assert flavor.value == 4
        if pid.value == 13:
            return -1
        times = (24_000_000, 12_000_000)
        buffer[16:32] = b"".join(ticks.to_bytes(8, sys.byteorder) for ticks in times)
        return 0

    def proc_pidinfo(self, pid: Any, flavor: Any, arg: Any, buffer: Any, size: Any) -> int:
        assert flavor.value == 17
        buffer[16:24] = (pid.value * 100).to_bytes(8, sys.byteorder)
        return int(size.value)

    def proc_listpids(self, kind: Any, pid: Any, buffer: Any, size: Any) -> int:
        assert kind.value == 6
        found = {10: [11]}.get(pid.value, [])
        buffer[: len(found)] = found
        return 4 * len(found)


def test_processor_time_on_a_mac() -> None:
    """36 million ticks of 125/3 ns are 1.5 s; the child's count, too; another user's are not told."""
    times = DarwinCpuTimes(FakeLibC())
    told = times.of([ProcessId(10, 1000)])
    assert told == {ProcessId(10, 1000): pytest.approx(1.5), ProcessId(11, 1100): pytest.approx(1.5)}
    assert times.of([ProcessId(13, 1300)]) is None
    assert times.of([ProcessId(10, 4)]) == {}
    assert set(times.of([ProcessId(10, 1000)], {11}) or {}) == {ProcessId(10, 1000)}


@linux
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_is_connected_is_counted(family: socket.AddressFamily) -> None:
    sockets = Sockets()
    host = "127.0.0.1" if family is socket.AF_INET else "::1"
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip("no such addresses here")
        counts = []
        for _ in range(3):
            sockets.begin(float(len(counts)))
            counts.append(sockets.connections([me()]))
            stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        assert counts[0] is not None
        assert [count - counts[0] for count in counts if count is not None] == [0, 1, 2]


@linux
def test_a_process_that_listens_nowhere_has_no_port_to_be_connected_to() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = identify(child.pid)
        assert found is not None
        sockets = Sockets()
        sockets.begin(0.0)
        assert sockets.connections([found]) is None
        child.communicate(b"\n")
        assert sockets.connections([found]) is None


def test_a_system_without_proc_knows_of_no_connections(tmp_path: Path) -> None:
    assert Sockets(str(tmp_path)).connections([ProcessId(10, 1)]) is None


@contextlib.contextmanager
def serving(*answers: bytes, drip_s: float = 0.0) -> Iterator[int]:
    """A port that answers one connection after the other, byte by byte where it drips, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                with contextlib.suppress(OSError), listener.accept()[0] as client:
                    client.recv(65_536)
                    for at in range(0, len(answer), 1 if drip_s else max(1, len(answer))):
                        client.sendall(answer[at : at + 1] if drip_s else answer)
                        over.wait(drip_s)

        over = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


LLAMA = (
    b"# HELP x y\nllamacpp:requests_processing 1\nllamacpp:n_decode_total 7\nllamacpp:tokens_predicted_total 5\nother 9"
)
VLLM = b'vllm:num_requests_running{model_name="a b"} 0.0\nvllm:generation_tokens_total{model_name="a"} 1.2e+03'
SLOTS = (
    b'[{"is_processing": true, "n_prompt_tokens_processed": 3, "next_token": [{"n_decoded": 4}]}, {"is_processing":0}]'
)
NONE = http(b"", "404 Not Found")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([http(LLAMA)], Said(True, 12)),
        ([http(VLLM)], Said(False, 1200)),
        ([NONE, http(SLOTS)], Said(True, 7)),
        ([http(b"nothing known 3"), http(b"[]")], Said(False, 0)),
        ([http(b"llamacpp:n_decode_total 1e999\nllamacpp:requests_processing x")], Said(False, 0)),
    ],
)
def test_what_servers_say_of_their_work(answers: list[bytes], said: Said) -> None:
    with serving(*answers) as port:
        assert ownmetrics.ask("127.0.0.1", port) == said


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([NONE, NONE], NotTold),
        ([NONE, http(b"", "501 Not Implemented")], NotTold),
        ([http(b"x"), http(b'{"error": 1}')], NotTold),
        ([http(b"x"), http(b"[[" * 50_000)], NotTold),
        ([http(b"loading", "503 Service Unavailable")], NoAnswer),
        ([http(b"", "302 Found")], NoAnswer),
        ([b""], NoAnswer),
        ([b"garbage\r\n\r\n"], NoAnswer),
        ([], NoAnswer),
    ],
)
def test_a_server_that_says_nothing_of_its_work(answers: list[bytes], error: type[Exception]) -> None:
    with serving(*answers) as port, pytest.raises(error):
        ownmetrics.ask("127.0.0.1", port)


def test_a_server_that_drips_is_given_up_in_time() -> None:
    with serving(http(LLAMA), drip_s=0.1) as port, pytest.raises(NoAnswer):
        ownmetrics.ask("127.0.0.1", port)
