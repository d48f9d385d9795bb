"""`python -m bench [--quick] [--only PART] [--out PAGE]`: measure, and write docs/performance.md."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench import ratios, report
from bench.measuring import FULL, QUICK, Plan, Results, Skipped
from bench.native import OUT
from bench.world import ROOT

PARTS: Final = (
    "changing",
    "matching",
    "leases",
    "starting",
    "idling",
    "watching",
    "stalling",
    "deciding",
    "serving",
    "governing",
    "swapping",
    "estimating",
)
PAGE: Final = ROOT / "docs" / "performance.md"


def main() -> int:
    """Run the parts one after the other; what can't be measured here says why, and the others go on."""
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("--quick", action="store_true", help="show that all of it runs; the figures mean nothing")
    options.add_argument("--only", action="append", choices=PARTS, help="only this part; may be given more than once")
    options.add_argument("--out", type=Path, help="the page to write; docs/performance.md after a whole run")
    given = options.parse_args()
    whole = not given.quick and not given.only
    page = given.out or (PAGE if whole else OUT / "performance.md")
    results = measure(QUICK if given.quick else FULL, given.only or PARTS)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / ("quick.json" if given.quick else "results.json")).write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    report.save(results, page)
    for each in results["ratios"]:
        reached = {True: "reached", False: "SHORT", None: "-"}[each["reached"]]
        print(f"{each['number']} {reached:8} {each['what']}: {each['measured']} (goal: {each['goal']})")
    print(f"written: {os.path.relpath(page)}")
    return any("fault" in results[name] for name in PARTS if name in results)


def measure(plan: Plan, parts: tuple[str, ...] | list[str]) -> Results:
    """The results of these parts, and the ratios that follow."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    results: Results = {"machine": report.machine(), "load": load, "plan": asdict(plan)}
    for name in parts:
        began = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            results[name] = importlib.import_module(f"bench.{name}").measure(plan)
            said = f"{time.monotonic() - began:.0f} s"
        except Skipped as why:
            results[name] = {"skipped_whole": str(why)}
            said = f"left out: {why}"
        except Exception as fault:  # the other parts are worth having, and main ends with 1
            traceback.print_exc()
            results[name] = {"skipped_whole": f"a fault, {type(fault).__name__}: {fault}", "fault": True}
            said = "failed"
        print(said, file=sys.stderr, flush=True)
    results["ratios"] = ratios.as_json(ratios.all_of(results))
    return results


if __name__ == "__main__":
    sys.exit(main())
