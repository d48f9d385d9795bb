#!/usr/bin/env python3
"""A stand-in for a model server, that misbehaves when told: for the faults that a real one shows once a month.

    stand_in.py --port 8080 [--mode ok] [--delay 0] [--deaf] [--mb 0] [--elsewhere URL]

`GET /become/MODE` changes how it answers everything else:
    ok        200, one token           fail      500
    hang      never, and does nothing  works     never, and computes meanwhile
    close     hangs up                 drip      a byte of the answer every tenth of a second
    redirect  302 to --elsewhere       huge      200, and a body of 1 GB
    grow      200, and takes 64 MB more each time
    stream    goes on sending to the first who asks, as one that waits for its GPU; the others get nothing
`--deaf` ignores SIGTERM. `--delay` waits before it listens. `--crash` ends at once with exit 3.
"""

import argparse
import signal
import socket
import sys
import threading
import time

TOKEN = b'{"choices": [{"message": {"content": "hi"}}]}'


class StandIn:
    """One server: a thread for each connection, and a mode that they share."""

    def __init__(self, mode: str, elsewhere: str) -> None:
        self.mode = mode
        self.elsewhere = elsewhere
        self.hits = 0
        self.held: list[bytearray] = []
        self.first = threading.Lock()

    def serve(self, port: int) -> None:
        with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                path = self._path(connection)
                if path.startswith("/become/"):
                    self.mode = path.removeprefix("/become/")
                    say(connection, b"200 OK", b"{}")
                elif path == "/hits":
                    say(connection, b"200 OK", str(self.hits).encode())
                else:
                    # Whoever looks whether it is busy asks for these, which is no request to do something.
                    self.hits += path not in ("/metrics", "/slots")
                    getattr(self, f"be_{self.mode}")(connection)
            except OSError:
                return

    def _path(self, connection: socket.socket) -> str:
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65_536)
            if not more:
                raise ConnectionError
            head += more
        return head.split(b" ", 2)[1].decode()

    def be_ok(self, connection: socket.socket) -> None:
        say(connection, b"200 OK", TOKEN)

    def be_fail(self, connection: socket.socket) -> None:
        say(connection, b"500 Internal Server Error", b"{}")

    def be_hang(self, connection: socket.socket) -> None:
        threading.Event().wait(3_600)

    def be_works(self, connection: socket.socket) -> None:
        end = time.monotonic() + 60
        while self.mode == "works" and time.monotonic() < end:
            sum(range(10_000))
        say(connection, b"200 OK", TOKEN)

    def be_stream(self, connection: socket.socket) -> None:
        if not self.first.acquire(blocking=False):
            self.be_hang(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while self.mode == "stream":
            connection.sendall(TOKEN)
            time.sleep(0.2)

    def be_close(self, connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_RDWR)

    def be_drip(self, connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 3_600:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    def be_redirect(self, connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {self.elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())

    def be_huge(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        for _ in range(1024):
            connection.sendall(b"x" * 1_048_576)

    def be_grow(self, connection: socket.socket) -> None:
        self.held.append(bytearray(b"x" * (64 << 20)))
        say(connection, b"200 OK", TOKEN)


def say(connection: socket.socket, status: bytes, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mode", default="ok")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--mb", type=int, default=0)
    parser.add_argument("--elsewhere", default="http://127.0.0.1:9/")
    given = parser.parse_args()
    if given.crash:
        sys.exit(3)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if given.deaf else signal.SIG_DFL)
    server = StandIn(given.mode, given.elsewhere)
    if given.mb:
        server.held.append(bytearray(b"x" * (given.mb << 20)))
    time.sleep(given.delay)
    server.serve(given.port)


if __name__ == "__main__":
    main()
