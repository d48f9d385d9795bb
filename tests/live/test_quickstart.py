"""scripts/quickstart tells a story that is true, and leaves nothing behind, also when it is cut short."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.live.servers import GEAR, Servers, wait_until

pytestmark = pytest.mark.slow


README = Path(__file__).parents[2] / "README.md"
TOUR = re.findall(r"```console\n(.*?)```", README.read_text().split("<!-- tour: ")[1], re.DOTALL)


def plain(text: str) -> list[str]:
    """Its lines without what differs from run to run: numbers, bars, folders, blanks; and without progress."""
    kept = [line for line in text.splitlines() if line.strip() and not re.search(r"  \d+ s  \[[#.]+[\]>]", line)]
    for pattern, instead in (
        (r"/\S*/(?=\.local)", "HOME/"),
        (r"\[[a-z?.]{20,}[\]>]", "[BAR]"),
        (r"\d+(\.\d+)?", "N"),
        (
            r"is unloaded after N s.*",
            "is unloaded after N s",
        ),  # the rest is the kernel's affair
        (r"\s+", " "),
    ):
        kept = [re.sub(pattern, instead, line).strip() for line in kept]
    return kept


def has_run(lines: list[str], part: list[str]) -> bool:
    """Whether `part` stands in `lines`, in one piece."""
    return any(lines[at : at + len(part)] == part for at in range(len(lines)))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the story makes its home, so that a test can see what is left of it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def begin(servers: Servers, temporary: Path):
    return servers.start(
        sys.executable, GEAR / "quickstart.py", env={**servers.env, "TMPDIR": str(temporary)}, cwd=temporary
    )


def test_the_story_is_true(servers: Servers, temporary: Path) -> None:
    """Loaded; refused with a remedy; the remedy run as printed; loaded. Then nothing runs and nothing is left."""
    story = begin(servers, temporary)
    assert story.wait(timeout=110) == 0, servers.log(story)
    told = servers.log(story)
    steps = re.findall(r"^\$ (admit (?!config|status).*)", told, re.MULTILINE)
    assert steps == [
        "admit load chat",
        "admit load coder",
        "admit unload chat",
        "admit load coder",
        "admit unload coder",
    ]
    assert servers.alive() == []
    assert list(temporary.iterdir()) == []
    lines = plain(told)
    for block in TOUR:
        assert has_run(lines, plain(block)), (
            f"README.md shows this, and the quickstart tells something else:\n{block}\n{told}"
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cut_short_it_leaves_nothing_running(servers: Servers, temporary: Path, number: signal.Signals) -> None:
    """Ended while a server runs, by Ctrl-C or by SIGTERM, it unloads that server before it goes."""
    story = begin(servers, temporary)

    def told_far_enough() -> bool:
        assert story.poll() is None, servers.log(story)
        return "$ admit load coder" in servers.log(story)

    wait_until(told_far_enough, within_s=60, explain=lambda: servers.log(story))
    assert "mlx_lm.server" in {process.name() for process in servers.alive()}
    send = os.killpg if number == signal.SIGINT else os.kill  # a terminal tells all of them
    send(story.pid, number)
    assert story.wait(timeout=60) == 128 + number, servers.log(story)
    assert servers.alive() == []
    assert list(temporary.iterdir()) == []
