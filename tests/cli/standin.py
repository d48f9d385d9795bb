"""standin: stands for a model server: holds memory, answers HTTP late, or not at all, or dies.

Run as a copy of its own name, so that a process_pattern can tell it from everything else on the machine. It imports
next to nothing: a hundred of them are started in one run of the tests.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
LATE = b"HTTP/1.1 503 Loading\r\ncontent-length: 18\r\nconnection: close\r\n\r\nweights\x1b[31m loading"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--hold-mb", type=int, default=0, help="allocate and touch so much")
    parser.add_argument("--port", type=int, help="answer HTTP: 503 while --not-ready exists, then 200")
    parser.add_argument("--not-ready", help="a file")
    parser.add_argument("--die-after", type=float, help="exit 3 after so many seconds, with a word on stderr")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--marker", help="nothing: a word on the command line")
    parser.add_argument("--phoenix", action="store_true", help="on SIGTERM, start again before going")
    parser.add_argument("--tell", help="write cwd, session and environment to this file")
    given = parser.parse_args()
    if given.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if given.phoenix:
        signal.signal(signal.SIGTERM, rise)
    held = bytearray(given.hold_mb << 20)
    held[::4096] = b"x" * len(held[::4096])
    if given.tell:
        with open(f"{given.tell}.new", "w", encoding="utf-8") as out:
            out.write("\n".join([os.getcwd(), str(os.getsid(0)), str(os.getpid()), os.environ.get("A_WORD", "")]))
        os.rename(f"{given.tell}.new", given.tell)
    print(f"{given.name} begins", flush=True)
    if given.die_after is not None:
        time.sleep(given.die_after)
        print("the weights are \x1b[31mtorn\x1b[0m", file=sys.stderr)
        sys.exit(3)
    if given.port is not None:
        serve(given.port, given.not_ready)
    while True:
        signal.pause()


def rise(*_: object) -> None:
    os.posix_spawn(sys.executable, sys.orig_argv, os.environ)
    os._exit(0)


def serve(port: int, not_ready: str | None) -> None:
    import socket

    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(LATE if not_ready and os.path.exists(not_ready) else READY)


if __name__ == "__main__":
    main()
