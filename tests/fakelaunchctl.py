"""fakelaunchctl: stands in for launchctl: `fakelaunchctl.py FOLDER WORDS...`, with the real one's exit codes and races.

What it keeps to: bootout ends before the job does; bootstrap meanwhile is 5; over a loaded job it is 37 and the old
definition stays; a disabled label is 119, and stays disabled whatever else is done; a plist that others may write to is
122. FOLDER/state.json is its memory, FOLDER/said every command line. What it is told in its memory: to answer
everything with `refuses` (without a desktop session that is 112, or 125), to be busy for as many `races`, to say 36
of a job that is `in_progress` of ending, and to leave a loaded job `idle`.
"""

from __future__ import annotations

import json
import os
import plistlib
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

FRESH: dict[str, Any] = {
    "job": None, "pid": 0, "leaving": 0, "disabled": False,
    "refuses": 0, "races": 0, "in_progress": False, "idle": False,
}  # fmt: skip
SLOW_TO_LEAVE = 3
"""How often a job that is being booted out is still seen by `print` after its process has gone."""


def runs(pid: int) -> bool:
    try:
        return pid > 0 and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def spawn(job: dict[str, Any]) -> int:
    """As launchd does: next to no environment, its output appended, a process group of its own."""
    environ = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **job["EnvironmentVariables"]}
    with open(job["StandardOutPath"], "ab") as out, open(job["StandardErrorPath"], "ab") as err:
        process = subprocess.Popen(
            job["ProgramArguments"], env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/",
            start_new_session=True,
        )  # fmt: skip
    return process.pid


def bootstrap(state: dict[str, Any], words: list[str]) -> int:
    path = Path(words[1])
    if state["disabled"]:
        return 119
    if state["leaving"] or state["races"]:
        state["races"] = max(0, state["races"] - 1)
        return 5
    if state["job"]:
        return 37
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or found.st_uid != os.getuid():
        return 122
    state["job"] = plistlib.loads(path.read_bytes())
    state["pid"] = spawn(state["job"]) if state["job"].get("RunAtLoad") and not state["idle"] else 0
    return 0


def bootout(state: dict[str, Any], words: list[str]) -> int:
    if not state["job"]:
        return 5 if state["leaving"] else 3
    if runs(state["pid"]):
        os.kill(state["pid"], signal.SIGTERM)
    state["job"], state["leaving"] = None, SLOW_TO_LEAVE
    return 36 if state["in_progress"] else 0


def show(state: dict[str, Any], words: list[str]) -> int:
    if state["job"]:
        return 0
    if state["leaving"] and not runs(state["pid"]):
        state["leaving"] -= 1
    return 0 if state["leaving"] else 113


def kickstart(state: dict[str, Any], words: list[str]) -> int:
    if not state["job"]:
        return 113
    if words[0] == "-k" and state["races"]:
        state["races"] -= 1
        return 5
    if words[0] == "-k" and runs(state["pid"]):
        os.kill(state["pid"], signal.SIGTERM)
        while runs(state["pid"]):
            pass
    if not runs(state["pid"]):
        state["pid"] = spawn(state["job"])
    return 0


def enable(state: dict[str, Any], words: list[str]) -> int:
    state["disabled"] = False
    return 0


def main(folder: Path, verb: str, words: list[str]) -> int:
    with (folder / "said").open("a") as said:
        said.write(" ".join([verb, *words]) + "\n")
    memory = folder / "state.json"
    state = {**FRESH, **(json.loads(memory.read_text()) if memory.exists() else {})}
    verbs = {"bootstrap": bootstrap, "bootout": bootout, "print": show, "kickstart": kickstart, "enable": enable}
    code = state["refuses"] or verbs[verb](state, words)
    memory.write_text(json.dumps(state))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
