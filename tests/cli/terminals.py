"""terminals: a real terminal without a desk: tmux runs a command in it, types, and says what stands there."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests.cli.started import wait_until

PATIENCE_S = 60.0
ENDED = "ended with "
# tmux itself now and then does not hear that what it started has ended.
SHELL = f'"$@"; echo "{ENDED}$?"; exec sleep 600'


class Terminal:
    """One that is open."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self._words = ["tmux", "-L", name, "-f", "/dev/null"]
        self._environ = dict(environ)

    def tmux(self, *words: str) -> str:
        line = [*self._words, *words]
        return subprocess.run(line, env=self._environ, capture_output=True, text=True, check=False).stdout

    def screen(self) -> str:
        """What stands there."""
        return self.tmux("capture-pane", "-p")

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", *keys)

    def sees(self, text: str) -> str:
        """The screen, once it has `text` on it."""
        try:
            wait_until(lambda: text in self.screen(), PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.screen()}") from None
        return self.screen()

    def code(self) -> int:
        """The exit code of what ran in it, once it has ended."""
        return int(self.sees(ENDED).partition(ENDED)[2].split()[0])


@contextmanager
def terminal(command: Sequence[str], environ: Mapping[str, str], columns: int, rows: int) -> Iterator[Terminal]:
    """A terminal of that size that runs `command`."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed; scripts/setup installs it where it can")
    environ = {**environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TMUX_TMPDIR": environ["HOME"]}
    opened = Terminal(f"admit-{os.getpid()}-{uuid.uuid4().hex[:8]}", environ)
    try:
        opened.tmux(
            *("set-option", "-g", "escape-time", "20", ";"),
            *("new-session", "-d", "-x", str(columns), "-y", str(rows), "sh", "-c", SHELL, "sh", *command),
        )
        yield opened
    finally:
        opened.tmux("kill-server")
