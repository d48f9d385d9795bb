"""leases: what it costs to list reservations, and how soon one is free after SIGKILL to its holder."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from admitd import capacity
from admitd.core.terms import RAM, ProcessId, Service
from admitd.processes.linux import LinuxTable
from admitd.reservations import Reservations
from bench.measuring import Plan, Resident, Results, Skipped, figures, resident, take_turns
from bench.native import build
from bench.world import World, service_name, world

HELD: Final = (0, 10, 100)


def measure(plan: Plan) -> Results:
    """Seconds of one listing, by how many are held; seconds from SIGKILL until one is listed no more."""
    if not os.path.isdir("/proc/self"):
        raise Skipped("there is no /proc here")
    out: Results = {"listed": {}, "cold": {}}
    for held in HELD:
        with world(HELD[-1] + 1) as home:
            out["listed"][str(held)], out["cold"][str(held)] = _listed(plan, home, held)
    with world(10) as home:
        out["freed"] = _freed(plan, home)
    return out


def _listed(plan: Plan, home: World, held: int) -> tuple[Results, Results]:
    """By one who has listed them before, as a daemon; and by one who has not, as a command."""
    table = LinuxTable()
    in_force = capacity.load(home.config)
    with ExitStack() as stack:
        known = _records(home, table)
        stack.callback(table.close)
        for index in range(held):
            holder = stack.enter_context(resident([str(build("sitter"))]))
            with known.lock() as lock:
                known.reserve(lock, in_force.services[service_name(index)], _identity(table, holder.pid))
            stack.callback(_end_sitter, holder)

        def warm() -> float:
            began = time.perf_counter()
            standing = known.standing(in_force)
            took = time.perf_counter() - began
            if len(standing.reservations) != held:
                raise Skipped(f"{len(standing.reservations)} reservations were listed where {held} stand")
            return took

        def cold() -> float:
            other = _records(home, table)
            began = time.perf_counter()
            other.standing(in_force)
            took = time.perf_counter() - began
            other._holders.close()
            return took

        found = take_turns({"warm": warm, "cold": cold}, max(10, plan.turns // 2))
        known._holders.close()
        return figures(found["warm"]), figures(found["cold"])


def _freed(plan: Plan, home: World) -> Results:
    table = LinuxTable()
    in_force = capacity.load(home.config)
    service: Service = replace(in_force.services[service_name(9)], budget={RAM: 1 << 20})
    records = _records(home, table)
    took = []
    for _ in range(plan.kills):
        with resident([str(build("sitter"))]) as holder:
            with records.lock() as lock:
                held = records.reserve(lock, service, _identity(table, holder.pid))
            if not records.standing(in_force).reservations:
                raise Skipped("a reservation of a living holder is not listed")
            began = time.perf_counter()
            os.kill(holder.pid, signal.SIGKILL)
            while records.standing(in_force).reservations:
                if time.perf_counter() - began > 5:
                    raise Skipped("a dead holder's reservation stands for more than 5 s")
            took.append(time.perf_counter() - began)
            records.give_back(held.id)
    records._holders.close()
    table.close()
    return figures(took)


def _records(home: World, table: LinuxTable) -> Reservations:
    return Reservations(home.state, table.identify, shared=False)


def _identity(table: LinuxTable, pid: int) -> ProcessId:
    found = table.identify(pid)
    if found is None:
        raise Skipped("a holder ended at once")
    return found


def _end_sitter(holder: Resident) -> None:
    holder.process.kill()
