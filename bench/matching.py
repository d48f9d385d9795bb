"""matching: patterns that a backtracking engine needs forever for, on command lines that any user can start."""

from __future__ import annotations

import multiprocessing
import random
import re
import time
from typing import Final

from admitd.core.terms import RAM, Service
from admitd.patterns import BadPattern
from admitd.processes.matching import Matcher
from bench.measuring import Plan, Results, Skipped, figures

SIZES: Final = (4_096, 16_384)
PATTERNS: Final = {
    "(a+)+$": "aaaaaaaaab",
    r"(a|aa)+\z": "a",
    "(x+x+)+y": "x",
    ".*vllm.*--port 8000": "vllm --port 800 ",
    r"(.*)(.*)(.*)(.*)(.*)server-x\z": "server-",
    "(([a-z])+.)+[A-Z]([a-z])+$": "abc.",
    "(a?){60}a{60}$": "a",
    # One state of RE2's automaton for each of 2^N histories, and no two lines take it the same way: a | b is drawn.
    "[ab]*a[ab]{30}c": "a|b",
    "[ab]*a[ab]{400}c": "a|b",
    "[ab]*a[ab]{900}c": "a|b",
    "server.{0,200}--port 8000": "server|x|-",
    r"\pL{60}!": "\u00e4",
}
_RE_GIVEN_S: Final = 1.0


def measure(plan: Plan) -> Results:
    """The slowest judgement of each pattern, by length of the line; and how long `re` takes, given a second."""
    out: Results = {"patterns": []}
    for pattern, unit in PATTERNS.items():
        try:
            matcher = Matcher([Service("x", {RAM: 1}, process_pattern=pattern)])
        except BadPattern as problem:
            out["patterns"].append({"pattern": pattern, "refused": problem.why})
            continue
        found: Results = {"pattern": pattern}
        for size in SIZES:
            rounds = 3 if plan.quick else 20
            took = [_timed(matcher, line(unit, size, chance)) for chance in range(rounds)]
            found[str(size)] = figures(took)
        found["re_4096_s"] = None if plan.quick else _with_re(pattern, line(unit, SIZES[0], 0))
        out["patterns"].append(found)
    if not out["patterns"]:
        raise Skipped("no pattern was measured")
    return out


def line(unit: str, size: int, chance: int) -> bytes:
    """A command line of `size` bytes that makes the pattern's work as long as it can be; another for each `chance`."""
    drawn = random.Random(chance)
    words = "".join(drawn.choices(unit.split("|"), k=size))
    return f"/bin/x{chance}\0{words}".encode()[: size - 1] + b"\0"


def _timed(matcher: Matcher, raw: bytes) -> float:
    began = time.perf_counter()
    matcher.judge(raw)
    return time.perf_counter() - began


def _with_re(pattern: str, raw: bytes) -> float | None:
    """Seconds that `re` takes; None where a second was not enough, or where it has no such pattern."""
    text = raw.decode("utf-8", "replace").replace("\0", " ")
    try:
        compiled = re.compile(pattern.replace(r"\z", r"\Z"))
    except re.error:
        return None
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_search, args=(compiled, text, theirs))
    process.start()
    theirs.close()
    found = ours.poll(_RE_GIVEN_S)
    seconds = float(ours.recv()) if found else None
    process.kill()
    process.join()
    return seconds


def _search(compiled: re.Pattern[str], text: str, told: object) -> None:
    began = time.perf_counter()
    compiled.search(text)
    told.send(time.perf_counter() - began)  # type: ignore[attr-defined]
