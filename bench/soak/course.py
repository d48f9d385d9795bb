"""course: one of the soak's courses, inside its room: `python -m bench.soak.course PLAN.json`; the result on stdout."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.clients import start, stop
from bench.measuring import Skipped, end
from bench.soak import room
from bench.soak.clients import Client, Heard, PoliteClient, on_the_path
from bench.soak.group import Group, opened
from bench.world import ROOT, World, free_port, python, world

JOB: Final = ROOT / "scripts" / "gear" / "job.py"
KERNEL: Final = "kernel"
EARLYOOM: Final = "earlyoom"
ADMIT: Final = "admit"
MARGIN_MB: Final = 20
"""What a budget says beyond the job's own memory: the interpreter."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is run. `jobs`: name -> MiB that it takes. `seconds`: how long clients ask; what runs then still ends.
    `outside`: the process ids of the machine, which this must not see."""

    guard: str
    group: str
    limit_mb: int
    seconds: float
    jobs: dict[str, int]
    grow_s: float
    work_s: float
    folder: str
    outside: str

    @property
    def log(self) -> Path:
        return Path(self.folder) / "jobs.log"

    def job(self, name: str) -> list[str]:
        """The command of one job."""
        group = str(opened(Path(self.group), 0).members)
        options = {"name": name, "mb": self.jobs[name], "log": self.log, "group": group}
        options |= {"grow-s": self.grow_s, "work-s": self.work_s}
        return python(str(JOB), *(word for key, value in options.items() for word in (f"--{key}", str(value))))

    def capacity(self) -> str:
        """A capacity.yaml in which the group's size is the machine's."""
        host = {"ram_physical_mb": self.limit_mb, "ram_reserved_mb": self.limit_mb // 16}
        host["ram_safety_mb"] = self.limit_mb // 32
        services = {
            name: {
                "ram_budget_mb": size_mb + MARGIN_MB,
                "process_pattern": rf"job\.py --name {name} ",
                "load_cmd": self.job(name),
                "unload_timeout_s": 20,
            }
            for name, size_mb in self.jobs.items()
        }
        return json.dumps({"hosts": {"soak": host}, "services": services}, indent=1)


def run(course: Course) -> dict[str, Any]:
    """Let the clients ask for as long as the plan says, and see the last job end."""
    room.check_inside(course.outside)
    group = opened(Path(course.group), course.limit_mb << 20)
    heard = Heard()
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(world(0))
        stack.enter_context(room.meminfo(group, home.folder))
        watcher = stack.enter_context(_guard(course, home))
        environ = on_the_path(home.environ, str(Path(sys.executable).parent))
        clients = [_client(course, place, name, heard, environ) for place, name in enumerate(course.jobs)]
        for client in clients:
            client.start()
        time.sleep(course.seconds)
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
        _wait_for_the_last(course)
        told = _told(course.log)
    ended_by_it = _endings(watcher) if watcher is not None else None
    return {**told, **heard.as_json(), "ended_by_earlyoom": ended_by_it}


def _client(course: Course, place: int, name: str, heard: Heard, environ: dict[str, str]) -> Client:
    if course.guard != ADMIT:
        return Client(name, course.job(name), heard, environ)
    admit = str(Path(sys.executable).with_name("admit"))
    return PoliteClient(name, course.job(name), heard, environ, admit, by_load=place % 2 == 1)


@contextlib.contextmanager
def _guard(course: Course, home: World) -> Iterator[Path | None]:
    """Whoever looks after the memory in this course; where earlyoom writes what it does."""
    if course.guard == EARLYOOM:
        log = Path(course.folder) / "earlyoom.log"
        with log.open("wb") as out:
            process = subprocess.Popen([_earlyoom(), "-r", "0"], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            try:
                yield log
                if process.poll() is not None:
                    raise Skipped(f"earlyoom ended by itself: {log.read_text()[-300:]}")
            finally:
                process.terminate()
                end(process)
        return
    if course.guard == ADMIT:
        home.config.write_text(course.capacity(), encoding="utf-8")
        port = free_port()
        home.environ["ADMIT_PORT"] = str(port)
        command = python("-c", "from admit_cli.main import admitd; admitd()", "--port", str(port))
        process, _ = start(command, port, "/capacity", home.environ)
        try:
            yield None
            if process.poll() is not None:
                raise RuntimeError(f"the daemon ended with exit status {process.returncode}")
        finally:
            stop(process)
        return
    yield None


def _earlyoom() -> str:
    path = shutil.which("earlyoom")
    if path is None:
        raise Skipped("earlyoom is not installed (apt-get install earlyoom)")
    return path


def _endings(log: Path) -> dict[str, int]:
    """How many earlyoom ended, by signal."""
    text = log.read_text(errors="replace")
    return {name: text.count(f"sending {name} to process") for name in ("SIGTERM", "SIGKILL")}


def _wait_for_the_last(course: Course) -> None:
    """Jobs that `admit load` started have no client that waits for them."""
    give_up = time.monotonic() + 10 * (course.grow_s + course.work_s) + 30
    while _members(opened(Path(course.group), 0)) and time.monotonic() < give_up:
        time.sleep(0.1)


def _members(group: Group) -> list[str]:
    return group.members.read_text().split()


def _told(log: Path) -> dict[str, Any]:
    """What the jobs said of themselves; who has no last word was killed."""
    last: dict[tuple[str, int], str] = {}
    began: dict[tuple[str, int], float] = {}
    stopped_s = 0.0
    what: Counter[str] = Counter()
    for line in log.read_text().splitlines() if log.exists() else []:
        said = json.loads(line)
        key = (said["name"], said["pid"])
        if said["what"] == "started" and last.get(key) == "started":
            what["killed"] += 1
        last[key] = said["what"]
        if said["what"] == "started":
            began[key] = said["at"]
        elif said["what"] == "stopped":
            stopped_s += said["at"] - began[key]
        what[said["what"]] += 1
    what["killed"] += sum(each == "started" for each in last.values())
    counts = {name: what[name] for name in ("started", "finished", "stopped", "killed")}
    return {**counts, "stopped_s": round(stopped_s, 1)}


def main() -> int:
    course = Course(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        found = run(course)
    except Skipped as why:
        found = {"skipped": str(why)}
    print(json.dumps(found))
    return 0


def as_json(course: Course) -> str:
    return json.dumps(asdict(course))


if __name__ == "__main__":
    sys.exit(main())
