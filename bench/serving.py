"""serving: what an answer of the daemon costs, with one client and with sixteen, beside bare FastAPI and uvicorn."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Final

from bench.clients import Client, Many, bare, daemon, request
from bench.crowd import crowd
from bench.measuring import Plan, Results, figures, resident, take_turns
from bench.native import build
from bench.world import python, service_name, world

CLIENTS: Final = 16
_CAPACITY: Final = request("GET", "/capacity")
_BARE: Final = request("GET", "/")


def measure(plan: Plan) -> Results:
    """By crowd and services: one client, sixteen at once, sixteen without pause."""
    out: Results = {"runs": []}
    for total in plan.crowds:
        with crowd(total) as processes:
            for services in plan.services:
                out["runs"].append({"wanted": total, "processes": processes, **_one(plan, services)})
    return out


def _one(plan: Plan, services: int) -> Results:
    admit = request("POST", "/admit", {"service": service_name(services - 1), "dry_run": True})
    with ExitStack() as stack:
        home = stack.enter_context(world(services))
        port, _ = stack.enter_context(daemon(home))
        bare_port, _ = stack.enter_context(bare(home))
        looker = stack.enter_context(resident(python("-m", "bench.looker", "scene"), home.environ))
        kept = stack.enter_context(resident([str(build("readers")), "kept"]))
        one, bare_one = Client(port), Client(bare_port)
        for client in (one, bare_one):
            stack.callback(client.close)
        beyond: list[float] = []

        def capacity() -> float:
            seconds = one.ask(_CAPACITY)
            beyond.append(seconds - json.loads(one.body)["scan_ms"] / 1e3)
            return seconds

        singles: dict[str, Callable[[], float]] = {
            "GET /capacity": capacity,
            "POST /admit, dry run": lambda: one.ask(admit),
            "bare": lambda: bare_one.ask(_BARE),
            "look + match + sum": looker.once,
            "C kept": kept.once,
        }
        out: Results = {"services": services}
        out["one"] = {name: figures(each) for name, each in take_turns(singles, plan.requests).items()}
        out["beyond_scan_p50_ms"] = round(statistics.median(beyond[1:]) * 1e3, 4)
        # Opened when they are needed: both servers close a connection on which nothing comes.
        many = stack.enter_context(closing(Many(port, CLIENTS)))
        bare_many = stack.enter_context(closing(Many(bare_port, CLIENTS)))
        bursts: dict[str, Callable[[], float]] = {
            "GET /capacity": lambda: many.burst(_CAPACITY),
            "POST /admit, dry run": lambda: many.burst(admit),
            "bare": lambda: bare_many.burst(_BARE),
            "GET /capacity alone": capacity,
        }
        out["burst"] = {name: figures(each) for name, each in take_turns(bursts, plan.bursts).items()}
        out["flood"] = {}
        for name, at, message in (
            ("GET /capacity", port, _CAPACITY),
            ("POST /admit, dry run", port, admit),
            ("bare", bare_port, _BARE),
        ):
            with closing(Many(at, CLIENTS)) as clients:
                latencies, per_s = clients.flood(message, plan.flood_s)
            out["flood"][name] = {**figures(latencies), "per_s": round(per_s, 1)}
        return out
