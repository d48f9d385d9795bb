"""installeddaemon: the daemon as a user installs it under a real `systemd --user`, in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import usersystemd
from tests.daemons import ADMIT, Daemon, end_naps, prepared, sleeper, until
from tests.usersystemd import UserSystemd

WITHIN_S = 90.0


@dataclass
class Installed:
    """A home, its systemd, and the daemon that is installed there."""

    systemd: UserSystemd
    daemon: Daemon
    units: Path = field(init=False)

    def __post_init__(self) -> None:
        self.units = Path(self.daemon.environ["HOME"], ".config", "systemd", "user")

    def admit(self, *words: str, code: int = 0) -> Any:
        """`admit daemon ... --json` in there."""
        done = self.systemd.run(str(ADMIT), "daemon", *words, "--json", environ={"ADMIT_PORT": str(self.daemon.port)})
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def doctor(self, port: int | None = None) -> dict[str, dict[str, Any]]:
        """The first finding of each check of `admit doctor`."""
        environ = {"ADMIT_PORT": str(port or self.daemon.port)}
        done = self.systemd.run(str(ADMIT), "doctor", "--json", environ=environ)
        assert done.returncode in (0, 1), done.stderr  # the file may name more memory than this machine has
        return {each["check"]: each for each in reversed(json.loads(done.stdout)["findings"])}

    def paste(self, line: str) -> subprocess.CompletedProcess[str]:
        """What a user does with the command that mends it."""
        environ = {"ADMIT_PORT": str(self.daemon.port), "PATH": f"{ADMIT.parent}:{os.environ['PATH']}"}
        return self.systemd.run("sh", "-c", line, environ=environ)

    def install(self) -> Any:
        said = self.admit("install")
        self.daemon.token = (self.daemon.places / "token").read_text().strip()
        return said

    def main_pid(self) -> int:
        return int(self.systemd.shown("admit.service", "MainPID"))

    def end(self, sig: str) -> int:
        """Signal the daemon; its pid."""
        pid = self.main_pid()
        self.systemd.run("kill", f"-{sig}", str(pid))
        return pid

    def another_than(self, pid: int) -> int:
        """The pid of the daemon that came after, once it serves."""

        def look() -> int:
            now = self.main_pid()
            return now if now != pid and self.systemd.shown("admit.service", "ActiveState") == "active" else 0

        return until(look, WITHIN_S)


@contextlib.contextmanager
def an_own_systemd() -> Iterator[Installed]:
    """A home with a capacity file and a systemd, where nothing is installed yet."""
    with tempfile.TemporaryDirectory(prefix="a") as home:
        daemon = prepared(Path(home, "f"), sleeper("nap", 1) + sleeper("other", 2), Path(home))
        try:
            with usersystemd.running(daemon.environ) as systemd:
                yield Installed(systemd, daemon)
        finally:
            end_naps()
