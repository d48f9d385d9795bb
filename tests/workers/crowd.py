"""crowd: many processes that ask for the last room at once, round after round.

`python -m tests.workers.crowd CONFIG STATE CLIENTS ROUNDS LOOK_S HOW [PORT...]`. Each client is a process with a gate
of its own; it asks for one of the declared services when all of them are ready. LOOK_S is how much longer a look takes,
inside the region of the lock. HOW is `locked` or `unlocked`. With ports, two of three clients ask a daemon instead.
Printed: for each round the answers, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from admitd import capacity
from admitd.core.terms import Capacity, ProcessId
from admitd.gate import Ask, Gate
from admitd.processes.matching import Matcher
from admitd.processes.table import NOBODY, Launchers, Look
from admitd.reservations import LOCK_WAIT_S, Reservations
from tests.gates import Quiet, Undisturbed, me, no_checks, word
from tests.hosts import answer, connect, send


class Slow(Undisturbed):
    """The real table, seen slowly."""

    def __init__(self, look_s: float) -> None:
        super().__init__()
        self._look_s = look_s

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        look = super().look(matcher, launchers)
        time.sleep(self._look_s)
        return look


class Unlocked(Reservations):
    """What it would be like without the lock."""

    @contextlib.contextmanager
    def lock(self, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
        fd = os.open(self.where / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)


def ask_here(declared: Capacity, state: Path, how: str, look_s: float, service: str, holder: ProcessId) -> str:
    table = Slow(look_s)
    kind = Reservations if how == "locked" else Unlocked
    gate = Gate(lambda: (declared, ()), table, Quiet(), kind(state, table.identify, shared=False), no_checks)
    gate.matcher(declared)
    return word(gate.decide([Ask(service, holder)])[0][0])


def ask_there(port: int, service: str, holder: ProcessId) -> str:
    with contextlib.closing(connect(port)) as connection:
        send(connection, "POST", "/admit", {"service": service, "holder_pid": holder.pid})
        status, body = answer(connection)
    return "Admitted" if (status, body.get("verdict")) == (200, "admitted") else str(body.get("reason", body))


def client(number: int, ready: int, told: int, stay: int, ports: list[int], declared: Capacity) -> None:
    _, _, state, _, _, look_s, how, *_ = sys.argv
    service, holder = list(declared.services)[number % len(declared.services)], me()
    os.read(ready, 1)
    if ports and number % 3:
        said = ask_there(ports[number % len(ports)], service, holder)
    else:
        said = ask_here(declared, Path(state), how, float(look_s), service, holder)
    os.write(told, f"{said}\n".encode())
    os.read(stay, 1)


def one_round(clients: int, ports: list[int], declared: Capacity) -> list[str]:
    ready, start = os.pipe()
    answers, told = os.pipe()
    stay, leave = os.pipe()
    pids = []
    for number in range(clients):
        pid = os.fork()
        if pid == 0:
            # The last of all these copies is closed when all are ready: that is the start.
            for fd in (start, leave, answers):
                os.close(fd)
            try:
                client(number, ready, told, stay, ports, declared)
            finally:
                os._exit(0)
        pids.append(pid)
    for fd in (start, told):
        os.close(fd)
    with os.fdopen(answers) as lines:
        said = [next(lines).strip() for _ in range(clients)]
    for fd in (leave, ready, stay):
        os.close(fd)
    for pid in pids:
        os.waitpid(pid, 0)
    return said


def main() -> None:
    config, _, clients, rounds = sys.argv[1:5]
    declared = capacity.load(Path(config), detect_physical=lambda: 0)
    ports = [int(port) for port in sys.argv[7:]]
    print(json.dumps([one_round(int(clients), ports, declared) for _ in range(int(rounds))]))


main()
