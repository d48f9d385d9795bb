"""The cookbook's unit and its line for cron, started as those who run them would: systemd itself, and cron's own shell.

They stand as on the page, but for the port, which others may use here, and the machine's size.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import usersystemd
from tests.live.servers import Servers, wait_until
from tests.usersystemd import UserSystemd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
REFUSED = 2


def block(kind: str) -> str:
    """What stands in the page's first fenced block of that kind."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@dataclass
class Home:
    """A user's home, with `admit` where the page has it, and the page's capacity.yaml."""

    folder: Path
    port: int

    @property
    def file(self) -> Path:
        return self.folder / ".config" / "admit" / "capacity.yaml"

    def ported(self, text: str) -> str:
        assert "8080" in text
        return text.replace("8080", str(self.port))

    def has_pool_mb(self, pool_mb: int) -> None:
        text = self.ported(block("yaml")).replace("ram_physical_mb: 65536", f"ram_physical_mb: {pool_mb + 16384}")
        self.file.write_text(f"live_veto: off\n{text}")
        self.file.chmod(0o600)

    def environ(self, path: str) -> dict[str, str]:
        own = {"HOME": str(self.folder), "ADMIT_STATE_DIR": str(self.folder / "machine"), "PYTHONPATH": str(ROOT)}
        return {**own, "ADMIT_PORT": "1", "PATH": path}  # a port where no daemon can be


@pytest.fixture
def home(free_port: Callable[[], int]) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="a") as folder:  # short, because a socket's path must be
        made = Home(Path(folder), free_port())
        made.file.parent.mkdir(parents=True)
        (made.folder / ".local" / "bin").mkdir(parents=True)
        for name in ("admit", "mlx_lm.server"):
            (made.folder / ".local" / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
        made.has_pool_mb(65536)
        yield made


@contextlib.contextmanager
def taken(*words: str, there: UserSystemd | None = None) -> Iterator[None]:
    """A process with these words behind its name, which the pattern of a service finds; `there`: in its namespaces,
    where it ends with them at the latest."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", *words]
    with subprocess.Popen(there.command(*command) if there else command) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.skipif(bool(usersystemd.why_not()), reason=usersystemd.why_not())
def test_the_unit(servers: Servers, home: Home, mlx_model: Callable[..., Path]) -> None:
    """Its main process becomes the server, which is loaded for `admit`; refused, it ends with 2 and is left alone."""
    (home.folder / "models").mkdir()
    (home.folder / "models" / "chat").symlink_to(mlx_model())
    unit = home.folder / ".config" / "systemd" / "user" / "chat.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(home.ported(block("ini")))
    environ = {**servers.env, **home.environ("/usr/bin:/bin")}
    with usersystemd.running(environ) as systemd:

        def status() -> str:
            return systemd.run(f"{home.folder}/.local/bin/admit", "status").stdout

        assert systemd.run("systemctl", "--user", "start", "chat").returncode == 0
        servers.answer(home.port)
        pid = systemd.shown("chat", "MainPID")
        assert re.search(rf"^chat +loaded .* {pid}$", status(), re.MULTILINE), status()
        systemd.ctl("stop", "chat")
        assert systemd.shown("chat", "MainPID") == "0"

        # Without the patience that the page gives it, and without room: it is not started again.
        home.has_pool_mb(40_000)
        with taken("train.py", there=systemd):
            wait_until(lambda: re.search(r"^night-job +loaded", status(), re.MULTILINE), explain=status)
            unit.write_text(unit.read_text().replace(" --wait 1h", ""))
            systemd.ctl("daemon-reload")
            systemd.ctl("start", "chat")
            wait_until(lambda: systemd.shown("chat", "ActiveState") == "failed", within_s=30)
        assert (systemd.shown("chat", "ExecMainStatus"), systemd.shown("chat", "NRestarts")) == (str(REFUSED), "0")


def by_cron(home: Home, line: str) -> tuple[int, str]:
    """Run a line with cron's shell, and the little that cron gives it (crontab(5))."""
    environ = {**home.environ("/usr/bin:/bin"), "SHELL": "/bin/sh", "LOGNAME": "me"}
    ended = subprocess.run(
        ["/bin/sh", "-c", line], env=environ, cwd=home.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stderr


def test_the_line_of_cron(home: Home) -> None:
    """The job runs only after a yes."""
    home.has_pool_mb(40_000)
    done = home.folder / "done"
    (home.folder / "train.py").write_text(f"import pathlib\npathlib.Path({str(done)!r}).touch()\n")
    line = block("text").split(maxsplit=5)[5]
    assert line.count(" --wait 2h") == 1
    with taken("mlx_lm.server", "--port", str(home.port)):
        code, said = by_cron(home, line.replace(" --wait 2h", ""))
        assert (code, done.exists()) == (REFUSED, False), said
    code, said = by_cron(home, line)
    assert (code, done.exists()) == (0, True), said
