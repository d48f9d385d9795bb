"""idling: what the daemon holds and does while nobody asks, beside bare FastAPI, earlyoom and nohang."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.clients import Client, bare, daemon, request
from bench.measuring import Plan, Results, Skipped, end
from bench.world import world

ASKED_BEFORE: Final = 100
"""Requests that the daemon has answered before it idles: what it holds then is what it holds in use."""
SETTLE_S: Final = 1.0
_NOHANG_CONFIG: Final = Path("etc/nohang/nohang.conf")
"""Below the folder that holds usr/sbin/nohang: / where it is installed, any other where it is merely unpacked."""


def measure(plan: Plan) -> Results:
    """Resident and proportional memory; processor time and wake-ups while all of them idle at the same time."""
    out: Results = {"seconds": plan.idle_s, "programs": {}, "skipped": {}}
    with ExitStack() as stack:
        home = stack.enter_context(world(10))
        pids: dict[str, int] = {}
        port, process = stack.enter_context(daemon(home))
        out["resident_at_start_mib"] = _memory(process.pid)["rss_mib"]
        client = Client(port)
        for _ in range(ASKED_BEFORE):
            client.ask(request("GET", "/capacity"))
        client.close()
        pids["admitd"] = process.pid
        _, other = stack.enter_context(bare(home))
        pids["bare FastAPI + uvicorn"] = other.pid
        others: dict[str, Callable[[], list[str]]] = {"earlyoom --dryrun": earlyoom, "nohang --monitor": nohang}
        for name, command_of in others.items():
            try:
                watcher = subprocess.Popen(
                    command_of(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except Skipped as why:
                out["skipped"][name] = str(why)
                continue
            stack.callback(_end_by_pid, watcher)
            pids[name] = watcher.pid
        time.sleep(SETTLE_S)
        before = {name: cpu_and_switches(pid) for name, pid in pids.items() if _lives(pid)}
        time.sleep(plan.idle_s)
        for name, pid in pids.items():
            if name not in before or not _lives(pid):
                out["skipped"][name] = "it ended while it was watched"
                continue
            cpu_ns, switches = (now - then for now, then in zip(cpu_and_switches(pid), before[name], strict=True))
            per_minute = 60.0 / plan.idle_s
            out["programs"][name] = {
                "cpu_ms_a_minute": round(cpu_ns / 1e6 * per_minute, 3),
                "wakeups_a_minute": round(switches * per_minute, 1),
                **_memory(pid),
            }
    return out


def earlyoom() -> list[str]:
    """Never without --dryrun: it would end processes. -r 0: no report every second, as a quiet installation has it."""
    path = shutil.which("earlyoom")
    if path is None:
        raise Skipped("earlyoom is not installed (apt-get install earlyoom)")
    return [path, "--dryrun", "-r", "0"]


def nohang() -> list[str]:
    """Never without --monitor: it would end processes."""
    path = shutil.which("nohang") or shutil.which("nohang", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Skipped("nohang is not installed (apt-get install nohang)")
    config = Path(path).resolve().parents[2] / _NOHANG_CONFIG
    if not os.access(config, os.R_OK):
        raise Skipped("its configuration, nohang.conf, can't be read")
    return [path, "--monitor", "--config", str(config)]


def _end_by_pid(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    end(process)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    except OSError:
        return False


def cpu_and_switches(pid: int) -> tuple[int, int]:
    """Nanoseconds of processor time and voluntary context switches, of all threads."""
    cpu = switches = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        cpu += int((thread / "schedstat").read_text().split()[0])
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches += int(line.split()[1])
    return cpu, switches


def _memory(pid: int) -> dict[str, float]:
    found = {"rss_mib": 0.0, "pss_mib": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[f"{name.lower()}_mib"] = round(int(rest.split()[0]) / 1024, 1)
    return found
