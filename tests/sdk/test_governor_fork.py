"""A governor in a child that was forked, with other threads of its parent gone from one moment to the next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str) -> None:
    """In a process of its own: a fork of this one would copy all of pytest's threads' locks. Whoever hangs is ended."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_forked_child_goes_on_though_another_thread_held_the_lock() -> None:
    """The other thread had a guard, too. It counts on in the child: nobody gave it back."""
    run("""
import os, threading, time
from admit_sdk import MemoryGovernor
governor = MemoryGovernor(1_000)
held, go = threading.Event(), threading.Event()
def hold():
    with governor.try_allocate(100, holder="other"), governor._lock:
        held.set()
        go.wait()
thread = threading.Thread(target=hold, daemon=True)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    assert governor.holdings() == {"other": 100}
    governor.try_allocate(10).release()
    own = []  # a thread of the child's still gives back what was its own
    one = threading.Thread(target=lambda: own.append(governor.try_allocate(50)))
    one.start()
    one.join()
    while governor.allocated_bytes != 100:
        time.sleep(0.01)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
go.set()
thread.join()
while governor.allocated_bytes:
    time.sleep(0.01)
""")


def test_a_fork_beside_threads_that_allocate_hangs_no_child() -> None:
    run("""
import os, threading
from admit_sdk import MemoryGovernor
governor = MemoryGovernor(1 << 30)
end = threading.Event()
def work():
    while not end.is_set():
        governor.try_allocate(100).release()
threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
for each in threads:
    each.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        governor.try_allocate(10).release()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
end.set()
for each in threads:
    each.join()
""")
