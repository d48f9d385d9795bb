"""signaller: another user's attempt to signal a service. `python -m tests.workers.signaller UID PID PATTERN`."""

from __future__ import annotations

import os
import signal
import sys

from admitd import actuator
from admitd.core.terms import Process
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Matcher
from tests.core.worlds import service


def main() -> None:
    uid, pid, pattern = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    table = LinuxTable()
    found = table.identify(pid)
    assert found is not None
    process = Process(found, os.stat(f"/proc/{pid}").st_uid)
    matcher = Matcher([service("x", process_pattern=pattern)])
    print(actuator.send(process, "x", signal.SIGTERM, table, matcher))
    actuator._pidfd = lambda pid: None
    print(actuator.send(process, "x", signal.SIGTERM, table, matcher))


main()
