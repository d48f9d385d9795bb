"""lookalikes: processes whose command lines are those of engines that can't run here, and a table that sees only
them: what else runs on the machine is not the test's affair."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from admitd.core.terms import Process, ProcessId
from admitd.processes.matching import Judgement, Matcher
from admitd.processes.ps import identify
from admitd.processes.table import NOBODY, Launchers, Look, ProcessTable
from tests.gates import until

STANDS = "#!/bin/sh\nread word\n"


class Lookalikes:
    """Stand-ins in a folder; each waits until it is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *argv: str, env: dict[str, str] | None = None) -> int:
        """Start something called argv[0], through its #! line, as pip installs programs; its pid."""
        program = self.folder / argv[0]
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(STANDS)
        program.chmod(0o755)
        process = subprocess.Popen([str(program), *argv[1:]], stdin=subprocess.PIPE, cwd=self.folder, env=env)
        self.started.append(process)
        # At the end of Popen its exec goes on still, and for a moment it has no command line.
        until(Path(f"/proc/{process.pid}/cmdline").read_bytes)
        return process.pid

    def decoy(self, *argv: str) -> int:
        """Start an editor, say, that has a name in its arguments."""
        return self.start("vim", *argv)

    def end(self) -> None:
        for process in self.started:
            process.communicate(b"\n", timeout=30)


class Only:
    """A process table in which nothing else is."""

    def __init__(self, table: ProcessTable, ours: Lookalikes) -> None:
        self._table = table
        self._ours = ours

    def look(self, matcher: Matcher, launchers: Launchers = NOBODY) -> Look:
        look = self._table.look(matcher, launchers)
        pids = {process.pid for process in self._ours.started}
        seen = tuple(sighting for sighting in look.sightings if sighting.process.id.pid in pids)
        return replace(look, sightings=seen)

    def identify(self, pid: int) -> ProcessId | None:
        return identify(pid)

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        return self._table.again(process, matcher)
