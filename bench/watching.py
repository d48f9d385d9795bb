"""watching: what the sentinel's rounds cost beside earlyoom's and nohang's, by how many processes there are."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from typing import Any, Final

from bench.clients import Client, daemon, request
from bench.crowd import crowd
from bench.idling import cpu_and_switches, earlyoom, nohang
from bench.measuring import Plan, Results, Skipped, end
from bench.world import LOADED, World, service_name, world

CROWDS: Final = (300, 1_000)
SETTLE_S: Final = 2.0
SERVICES: Final = 10
PLAIN: Final = "admitd"
WITH_SAFELIST: Final = "admitd, three on its safelist"
NOHANG: Final = "nohang --monitor"
NAPS: Final = ("clock_nanosleep", "nanosleep", "select", "pselect6")
"""What earlyoom and nohang wait in between two rounds: one call each."""


def measure(plan: Plan) -> Results:
    """Processor time a minute, and system calls a round, of all of them at the same time."""
    crowds = CROWDS if not plan.quick else plan.crowds
    return {"seconds": plan.idle_s, "crowds": [_crowd(plan, total) for total in crowds]}


def _crowd(plan: Plan, total: int) -> Results:
    found: Results = {"programs": {}, "skipped": {}}
    with ExitStack() as stack:
        found["processes"] = stack.enter_context(crowd(total))
        pids: dict[str, int] = {}
        homes = {name: stack.enter_context(world(SERVICES)) for name in (PLAIN, WITH_SAFELIST)}
        _add_safelist(homes[WITH_SAFELIST])
        ports = {}
        for name, home in homes.items():
            ports[name], process = stack.enter_context(daemon(home))
            pids[name] = process.pid
        for name, command_of in {"earlyoom --dryrun": earlyoom, NOHANG: nohang}.items():
            try:
                pids[name] = _started(stack, command_of())
            except Skipped as why:
                found["skipped"][name] = str(why)
        rounds = {name: _rounds(port) for name, port in ports.items()}  # which is work, and not the sentinel's
        time.sleep(SETTLE_S)
        before = {name: cpu_and_switches(pid) for name, pid in pids.items()}
        time.sleep(plan.idle_s)
        for name, pid in pids.items():
            cpu_ns, switches = (now - then for now, then in zip(cpu_and_switches(pid), before[name], strict=True))
            found["programs"][name] = {
                "cpu_ms_a_minute": round(cpu_ns / 1e6 * 60.0 / plan.idle_s, 3),
                "wakeups_a_minute": round(switches * 60.0 / plan.idle_s, 1),
            }
        for name, port in ports.items():
            found["programs"][name]["rounds"] = _rounds(port) - rounds[name]
        for name, pid in pids.items():
            found["programs"][name] |= _calls(plan, pid, ports.get(name))
    return found


def _add_safelist(home: World) -> None:
    """The services that have a process are on the list, so that they are glimpsed at between the full looks."""
    names = ", ".join(service_name(place) for place in range(LOADED))
    with home.config.open("a", encoding="utf-8") as file:
        file.write(f"sentinel: {{safelist: [{names}]}}\n")


def _started(stack: ExitStack, command: list[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop() -> None:
        process.terminate()
        end(process)

    stack.callback(stop)
    return process.pid


def _rounds(port: int) -> int:
    client = Client(port)
    client.ask(request("GET", "/healthz"))
    client.close()
    return int(json.loads(client.body)["sentinel"]["rounds"])


def _calls(plan: Plan, pid: int, port: int | None) -> dict[str, Any]:
    """System calls while strace counts them; by round."""
    if shutil.which("strace") is None:
        return {"calls_skipped": "strace is not installed"}
    command = ["strace", "-c", "-f", "-qq", "-p", str(pid)]
    before = _rounds(port) if port is not None else 0
    tracer = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(plan.idle_s / 2)
    tracer.send_signal(signal.SIGINT)
    _, told = tracer.communicate()
    counted = _counted(told)
    if not counted:
        return {"calls_skipped": f"strace counted nothing: {' '.join(told.split())[:200]}"}
    rounds = _rounds(port) - before if port is not None else sum(counted.get(each, 0) for each in NAPS)
    calls = sum(counted.values())
    return {"calls_a_minute": round(calls * 120.0 / plan.idle_s), "calls_a_round": round(calls / max(1, rounds), 1)}


def _counted(table: str) -> dict[str, int]:
    """`% time  seconds  usecs/call  calls  errors  syscall`, the errors mostly missing."""
    counted = {}
    for line in table.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
            counted[words[-1]] = int(words[3])
    return counted
