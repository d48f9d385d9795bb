"""A new user's way: an empty HOME, Python, two servers that run; in the end nothing is left but what is his."""

from __future__ import annotations

import errno
import os
import platform
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from admitd.core import sizing
from tests import usersystemd, wheels
from tests.browser import chromium
from tests.browser.chromium import Dashboard
from tests.daemons import Door
from tests.live.servers import GEAR, MARK, Servers
from tests.usersystemd import UserSystemd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(usersystemd.why_not()), reason=usersystemd.why_not()),
    pytest.mark.timeout(300),  # an installer, three servers and a browser on a slow machine
]

PAGE = Path(__file__).parents[2] / "docs" / "new-user.md"
QUESTION = re.compile(r"\[[Yy]/[Nn]\] $")
CONSOLES = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STAYS = {
    ".config/admit/capacity.yaml",
    ".config/admit/capacity.schema.json",
    ".local/state/admit/journal.jsonl",
    ".local/state/admit/journal.lock",
    ".local/state/admit/logs/coder.log",
    ".local/state/admit/token",
}
WITHIN_S = 110.0
SET = {"PIP_PROGRESS_BAR": "off", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TERM": "dumb", "COLUMNS": "120"}


@dataclass
class Typed:
    """One command: what was typed, what came of it."""

    line: str
    code: int
    said: str
    questions: int
    took_s: float


@dataclass
class User:
    """Who types at a terminal, in a home and namespaces of his own."""

    home: Path
    systemd: UserSystemd
    folder: Path
    servers: Servers
    ports: list[int]
    exported: str = ""
    typed: list[Typed] = field(default_factory=list)

    def types(self, line: str, code: int = 0) -> str:
        """Type a command, and Enter at each question; what stands on the terminal then. An export lasts."""
        began = time.monotonic()
        if line.startswith("export "):
            self.exported = f"{line}; "
        terminal, inside = pty.openpty()
        shell = self.systemd.command("sh", "-c", f"{self.exported}cd {self.folder}; {line}")
        process = subprocess.Popen(
            shell, env=self.systemd.environ, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
        )
        os.close(inside)
        said, questions = "", 0
        try:
            for part in parts(terminal, began + WITHIN_S):
                said += part
                if QUESTION.search(said):
                    questions += 1
                    os.write(terminal, b"\n")
                    said += "⏎"
            done = Typed(line, process.wait(WITHIN_S), plain(said), questions, time.monotonic() - began)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(terminal)
        self.typed.append(done)
        print(f"\n$ {line}\n{done.said}(exit {done.code}, {done.took_s:.1f} s, {questions} questions)")
        wheels.skip_unreachable(done.code, done.said)
        assert done.code == code, f"{line}\n{done.said}"
        return done.said

    def unseen(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command that is none of those of the page."""
        return self.systemd.run("sh", "-c", f"{self.exported}cd {self.folder}; {line}")

    def files(self) -> set[str]:
        """All that is in the home, but for folders."""
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*") if not path.is_dir()}


def parts(terminal: int, until_s: float) -> Iterator[str]:
    """What appears on a terminal, until nobody holds its other side."""
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0.0, until_s - time.monotonic()))
        assert ready, "the command does not end"
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # EIO: the last one that held the other side has ended
            return
        if not part:
            return
        yield part.decode("utf-8", "replace")


def plain(said: str) -> str:
    """As it stands on the terminal in the end: what was drawn over is gone."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.replace("\r\n", "\n")).split("\n")
    return "\n".join(line.rpartition("\r")[2] for line in lines)


@pytest.fixture
def user(servers: Servers, free_port) -> Iterator[User]:
    """Without anything but a Python and the servers that are to be seen; `folder` is the checkout."""
    with tempfile.TemporaryDirectory(prefix="a") as folder:  # short, because a socket's path must be
        home, made = Path(folder, "me"), Path(folder, "made")
        (home / "bin").mkdir(parents=True)
        for name, program in (
            ("python3", wheels.PYTHON),
            ("mlx_lm.server", Path(sys.executable).with_name("mlx_lm.server")),
            ("llama-server", GEAR / "llama-server"),
        ):
            (home / "bin" / name).symlink_to(program)
        made.mkdir()
        theirs = ("HF_HOME", "HF_HUB_OFFLINE", "MLX_DISABLE_COMPILE", "PYTHONUNBUFFERED", MARK)
        environ = {
            **wheels.settings(home),
            **{name: servers.env[name] for name in theirs},
            **SET,
            "PIP_CONSTRAINT": str(wheels.built(made).locked),
            "PATH": f"{home}/bin:/usr/bin:/bin",
            "ADMIT_STATE_DIR": f"{folder}/machine",
            "ADMIT_PORT": str(free_port()),
        }
        with usersystemd.running(environ) as systemd:
            yield User(home, systemd, wheels.unpacked(made), servers, [free_port() for _ in range(3)])


def start_servers(user: User, mlx: Path, gguf: Path) -> None:
    """As he always does: one may keep so many prompts that a third server does not fit beside it."""
    memory = psutil.virtual_memory()
    reserved, safety = sizing.kept(memory.total, memory.total - memory.available, desktop=False)
    prompts_mb = int((memory.total - reserved - safety) * 0.6) >> 20
    models = user.home / "models"
    models.mkdir()
    for name, model in (("chat", mlx), ("helper.gguf", gguf), ("coder.gguf", gguf)):
        (models / name).symlink_to(model)
    chat, helper, _ = user.ports
    lines = (
        f"mlx_lm.server --model {models}/chat --port {chat} --prompt-cache-bytes {prompts_mb}MB",
        f"llama-server -m {models}/helper.gguf --port {helper}",
    )
    for line in lines:
        user.servers.start(*user.systemd.command(*line.split()), env=user.systemd.environ)
    for port in (chat, helper):
        user.servers.answer(port)


def seen(door: Door) -> str:
    """Look at the dashboard; why that could not be done."""
    path = chromium.find()
    if path is None:
        return "there is no Chromium here (apt-get install chromium)"
    driver, browser = chromium.launch(path)
    try:
        dashboard = Dashboard(browser.new_page(), door)
        dashboard.listen()
        dashboard.open()
        dashboard.shows("mlx-chat", "stopped")
        dashboard.shows("llama-helper", "loaded")
        dashboard.shows("coder", "loaded")
        for said in ("mlx-chat was unloaded", "coder is loaded"):
            expect(dashboard.page.locator("#events")).to_contain_text(said)
        dashboard.page.close()
        dashboard.done()
    finally:
        browser.close()
        driver.stop()
    return ""


def nothing_is_left(user: User, before: set[str]) -> None:
    """Of files, units, sockets and processes; what he started, and what was loaded for him, goes on."""
    now = user.files() - before
    assert {name for name in now if not name.startswith(".cache/pip/")} == STAYS
    assert not (user.home / ".config/systemd").exists()
    assert user.systemd.shown("admit.service", "LoadState") == "not-found"
    records = {path.name for path in Path(user.systemd.environ["ADMIT_STATE_DIR"]).iterdir()}
    assert not {name for name in records if name != "lock" and not name.startswith("hands~")}, "only locks"
    with socket.socket() as line:
        assert line.connect_ex(("127.0.0.1", int(user.systemd.environ["ADMIT_PORT"]))) == errno.ECONNREFUSED
    lines = [" ".join(process.cmdline()) for process in user.servers.alive()]
    assert not [line for line in lines if str(user.home / "admit") in line]
    for port in user.ports[1:]:
        user.servers.answer(port)


def test_a_new_user(user: User, mlx_model, gguf_model) -> None:
    """Every command that he types, in order; docs/new-user.md shows them."""
    start_servers(user, mlx_model(), gguf_model())
    before = user.files()
    user.types("python3 -m venv ~/admit && ~/admit/bin/pip install .")
    user.types("export PATH=~/admit/bin:$PATH")
    unasked = user.unseen("admit init --yes --config ./capacity.yaml")
    assert (unasked.returncode, "[Y/n]" in unasked.stderr) == (0, False)

    user.types("admit init")
    assert user.typed[-1].questions == 1
    said = user.types("admit doctor")
    assert "0 faults, 0 warnings" in said
    said = user.types("admit daemon install")
    address = re.search(r"^  dashboard (http://127\.0\.0\.1:(\d+)/)$", said, re.MULTILINE)
    assert address is not None
    door = Door(int(address[2]))
    assert "0 faults, 0 warnings" in user.unseen("admit doctor").stdout

    needs_mb = door.capacity()["free_mb"] + 500
    command = f"llama-server -m {user.home}/models/coder.gguf --port {user.ports[2]}"
    user.types(f"admit service add coder ram_budget_mb={needs_mb} load_cmd='{command}'")
    refused = user.types("admit load coder", code=2)
    remedy = re.search(r"^  make room:  (.+)$", refused, re.MULTILINE)
    assert remedy is not None, refused
    user.types(remedy[1])
    user.types("admit load coder")
    user.servers.answer(user.ports[2])
    not_seen = seen(door)

    user.types("admit daemon uninstall")
    user.types("rm -r ~/admit")
    nothing_is_left(user, before)
    print(f"\n{summary(user.typed)}")
    the_page_shows(user)
    if not_seen:
        pytest.skip(f"all was done but to look at the dashboard: {not_seen}")


def summary(typed: list[Typed]) -> str:
    lines = [f"  {each.took_s:5.1f} s  {each.questions or ' '}  {each.line}" for each in typed]
    questions, took_s = sum(each.questions for each in typed), sum(each.took_s for each in typed)
    return "\n".join([f"{len(typed)} commands, {questions} question, {took_s:.0f} s", *lines])


def the_page_shows(user: User) -> None:
    """Its commands are these, in this order; what it prints below each was printed, but for numbers, and for `...`."""
    text = PAGE.read_text()
    shown = [block.split("\n", 1) for console in CONSOLES.findall(text) for block in console.split("$ ")[1:]]

    def alike(text: str) -> str:
        text = text.replace(str(user.home), "/home/me").replace(platform.node().partition(".")[0], "box")
        text = re.sub(r"(is unloaded after .* s)[;.] .*", r"\1", text)  # the rest is the kernel's affair
        return re.sub(r"\s+", " ", re.sub(r"[\d,.]*\d", "N", text)).strip()

    assert [alike(line) for line, _ in shown] == [alike(each.line) for each in user.typed]
    for (line, said), each in zip(shown, user.typed, strict=True):
        for part in said.split("...\n"):
            assert alike(part) in alike(each.said), f"{PAGE.name} shows this below {line}:\n{part}\n{each.said}"
    questions = sum(each.questions for each in user.typed)
    assert f"{len(user.typed)} commands and {questions} question" in text
