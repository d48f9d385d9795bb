#!/usr/bin/env python3
"""A memory-hungry job for the soak: takes its memory, works on it for a while, ends; says each of that in a log.

    job.py --name NAME --mb 300 --log FILE [--group FILE] [--grow-s 1] [--work-s 3]

`--group` is the cgroup.procs that it writes itself into first. SIGTERM ends it early, and that is said. A job that
said "started" and has no last word ("finished" or "stopped") was killed.
"""

import argparse
import json
import os
import signal
import sys
import time

CHUNK = 8 << 20
PAGE = 4096


class Stopped(Exception):
    """SIGTERM came."""


def say(log: str, name: str, what: str) -> None:
    """One line, whole or not at all."""
    line = json.dumps({"name": name, "pid": os.getpid(), "what": what, "at": time.time()}) + "\n"
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def stop(*_: object) -> None:
    raise Stopped


def work(size: int, grow_s: float, work_s: float) -> None:
    """Take `size` bytes in even steps, then touch them again and again."""
    held = []
    for _ in range(0, size, CHUNK):
        held.append(bytearray(CHUNK))
        held[-1][::PAGE] = b"x" * (CHUNK // PAGE)
        time.sleep(grow_s * CHUNK / size)
    end = time.monotonic() + work_s
    while time.monotonic() < end:
        for chunk in held:
            chunk[::PAGE] = b"y" * (CHUNK // PAGE)
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--mb", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--group")
    parser.add_argument("--grow-s", type=float, default=1.0)
    parser.add_argument("--work-s", type=float, default=3.0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        say(given.log, given.name, "started")
        if given.group:
            with open(given.group, "wb", buffering=0) as group:
                group.write(b"0")
        work(given.mb << 20, given.grow_s, given.work_s)
        say(given.log, given.name, "finished")
    except Stopped:
        say(given.log, given.name, "stopped")
        sys.exit(143)


if __name__ == "__main__":
    main()
