"""A machine of its own for each test: a home, a state folder, a port; and the real `admit`, run as a user would."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.started import Started, wait_until

BIN = Path(sys.executable).parent
STANDIN = Path(__file__).with_name("standin.py")
POOL_MB = 10_000
PATIENCE_S = 60.0
INSIDE = "deciding in this process, by the same rules"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it said on stdout, which must be one JSON document."""
        return json.loads(self.out)

    def must(self, code: int) -> Done:
        """This, if it ended with `code`; fails the test, with all that was said, if not."""
        assert self.code == code, f"exit {self.code}, not {code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        assert "Traceback" not in self.err + self.out
        return self


class Desk:
    """One user at one machine."""

    def __init__(self, home: Path, started: Started, port: int) -> None:
        self.home = home
        self.started = started
        self.port = port
        self.config = home / "capacity.yaml"
        self.state = home / "state"
        self.env = {
            **{k: v for k, v in started.env.items() if not k.startswith(("ADMIT_", "XDG_", "_ADMIT"))},
            "HOME": str(home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "ADMIT_STATE_DIR": str(self.state),
            "ADMIT_CONFIG": str(self.config),
            "ADMIT_PORT": str(port),
        }
        self.env.pop("NO_COLOR", None)
        self.env["TERM"] = "xterm"
        self._token = home.name.replace("-", "").replace("_", "")

    # The file.

    def declare(self, *services: str, pool_mb: int = POOL_MB, path: Path | None = None, head: str = "") -> Path:
        """Write capacity.yaml: `services` are whole entries."""
        path = path or self.config
        text = f"hosts:\n  box: {{ram_physical_mb: {pool_mb}, ram_reserved_mb: 0, ram_safety_mb: 0}}\n{head}"
        text += "live_veto: off\n" + ("services:\n" + "".join(services) if services else "services: {}\n")
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    def service(self, name: str, budget_mb: int = 6000, options: str = "", **keys: Any) -> str:
        """An entry whose load_cmd starts a stand-in with `options`; keys override, ... leaves one out."""
        keys = {
            "ram_budget_mb": budget_mb,
            "process_pattern": f"{self.program(name).name} ",
            "load_cmd": self.command(name, options),
            "load_timeout_s": 20,
            "unload_timeout_s": 10,
            **keys,
        }
        lines = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in keys.items() if value is not ...)
        return f"  {name}:\n{lines}"

    def program(self, name: str) -> Path:
        """The stand-in for a service, under a name that no other process on this machine has."""
        path = self.home / f"standin-{name}-{self._token}"
        if not path.exists():
            shutil.copy(STANDIN, path)
        return path

    def command(self, name: str, options: str = "") -> str:
        """The command line of a stand-in."""
        return f"exec {sys.executable} -IS {self.program(name)} --name {name} {options}".rstrip()

    # Processes.

    def start_by_hand(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a stand-in past `admit`, and wait until it says that it has begun."""
        command = self.command(name, " ".join(options)).split()[1:]
        process = self.started.start(*command)
        wait_until(lambda: "begins" in self.started.log(process))
        return process

    def pids(self, name: str) -> list[int]:
        """The live stand-ins of a service."""
        program = str(self.program(name))
        out = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = process.info["cmdline"] or []
            if line[1:3] == ["-IS", program] and process.info["status"] != psutil.STATUS_ZOMBIE:
                out.append(process.pid)
        return out

    def held(self) -> list[str]:
        """The records of the machine: reservations and places in the queue."""
        names = os.listdir(self.state) if self.state.exists() else []
        return [name for name in names if name.startswith(("held~", "handed~", "waiting~"))]

    # Commands.

    def admit(self, *words: str | Path, **options: Any) -> Done:
        """Run `admit` to its end, its output captured."""
        return self.finish(self.begin(*words, **options))

    def begin(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start `admit`."""
        return self.popen([str(BIN / "admit"), *map(str, words)], **options)

    def shell(self, line: str, **options: Any) -> Done:
        """Run a line as a user types it."""
        return self.finish(self.popen(["/bin/sh", "-c", line], **options))

    def popen(self, command: Sequence[str], env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a command with this desk's environment; it is ended with the rest."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, env={**self.env, **(env or {})}, text=True, cwd=self.home, **options)

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Done:
        """Wait until it ends."""
        with process:
            try:
                out, err = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Done(process.returncode, out or "", err or "")

    def open_for(self, door: str) -> None:
        """Have the commands decide by a daemon, or by themselves."""
        if door == "daemon":
            self.daemon()

    def daemon(self, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the daemon, and wait until it listens."""
        process = self.started.start(BIN / "admit", "daemon", "run", *words, env={**self.env, **(env or {})})
        wait_until(lambda: "admitd goes by" in self.started.log(process) or process.poll() is not None)
        assert process.poll() is None, self.started.log(process)
        return process

    def terminal(self, *words: str | Path, answer: str = "", when: str = "", **options: Any) -> Done:
        """Run `admit` on a terminal of 80 columns; `answer` is typed once `when` is shown. `out` is all of it."""
        primary, secondary = pty.openpty()
        try:
            import fcntl
            import struct
            import termios

            fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            files = {"stdin": secondary, "stdout": secondary, "stderr": secondary, **options}
            process = self.begin(*words, start_new_session=True, **files)
        finally:
            os.close(secondary)
        shown = b""
        give_up = time.monotonic() + PATIENCE_S
        with process:
            while time.monotonic() < give_up:
                ready, _, _ = select.select([primary], [], [], 0.2)
                if ready:
                    try:
                        part = os.read(primary, 65_536)
                    except OSError as problem:
                        assert problem.errno == errno.EIO  # the other side is closed
                        break
                    if not part:
                        break
                    shown += part
                    if answer and when.encode() in shown:
                        os.write(primary, answer.encode())
                        answer = ""
            else:
                process.kill()
                raise AssertionError(f"still running: {shown!r}")
            code = process.wait()
        os.close(primary)
        return Done(code, shown.decode(), "")

    @staticmethod
    def interrupt(process: subprocess.Popen[str], sig: signal.Signals = signal.SIGINT) -> Done:
        """Ctrl-C, and wait until it has ended."""
        process.send_signal(sig)
        return Desk.finish(process)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A machine of one's own; all that was started on it is ended."""
    # Not in tmp_path: a socket's address has room for about a hundred bytes.
    home = Path(tempfile.mkdtemp(prefix="admit-"))
    started = Started(dict(os.environ), tmp_path)
    try:
        yield Desk(home, started, free_port())
    finally:
        started.end_all()
        shutil.rmtree(home)


@pytest.fixture(params=["daemon", "inside"])
def door(request: pytest.FixtureRequest, desk: Desk) -> str:
    """Whether a daemon answers or `admit` decides by itself. Declare first, then call `desk.daemon()` where told."""
    way: str = request.param
    return way


__all__ = ["Desk", "Done", "desk", "door", "free_port", "wait_until"]
