"""loaders: processes that do what `admit load` does, without its start-up time, so that many can be killed.

`python -m tests.workers.loaders CONFIG STATE LOGS`; for each line `SERVICE HOW` on stdin a process is made and its pid
printed. HOW is `now`, or a place where it stops for good, and says so by making a file of that name in LOGS:
`reserved` (its reservation is written), `leased` (it has the lease) or `forked` (the load command's process is there,
and has not become the command yet; that process goes on when the file is removed).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from admitd import actuator, capacity, loading
from admitd.core.terms import Capacity
from admitd.core.verdict import Admitted
from admitd.gate import Ask, Gate
from admitd.processes.linux import LinuxTable
from admitd.reservations import Reservations
from tests.gates import Quiet, decided, me, no_checks


def stop_at(place: Path) -> None:
    place.touch()
    while True:
        signal.pause()


def slow_exec(place: Path) -> Any:
    """Popen whose child waits between fork and exec until `place` is removed."""

    def wait() -> None:
        place.touch()
        while place.exists():
            time.sleep(0.001)

    def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(*args, **kwargs, preexec_fn=wait)  # noqa: PLW1509 - one thread forks here

    return popen


def load(service: str, how: str, declared: Capacity, state: Path, logs: Path) -> None:
    table = LinuxTable()
    records = Reservations(state, table.identify, shared=False)
    gate = Gate(lambda: (declared, ()), table, Quiet(), records, no_checks)
    verdict = decided(gate, Ask(service, me()))[0].verdict
    if not isinstance(verdict, Admitted) or verdict.reservation is None:
        return
    if how == "reserved":
        stop_at(logs / how)
    if how == "leased":
        kept = records.lease(verdict.reservation.id)
        stop_at(logs / how)
        os.close(kept)
    if how == "forked":
        actuator.subprocess = type("Slow", (), {**vars(subprocess), "Popen": staticmethod(slow_exec(logs / how))})
    under_way = loading.Load(gate, declared.services[service], logs / f"{service}.log", verdict.reservation.id)
    under_way.follow(lambda progress: None)
    gate.give_back(verdict.reservation.id)


def main() -> None:
    config, state, logs = (Path(each) for each in sys.argv[1:])
    declared = capacity.load(config, detect_physical=lambda: 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        service, how = line.split()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                load(service, how, declared, state, logs)
            finally:
                os._exit(0)
        print(pid, flush=True)


main()
