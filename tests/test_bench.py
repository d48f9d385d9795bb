"""The bench runs, and its page is well-formed. No figure is held against anything here: the machine is a busy one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench import ratios, report
from bench.__main__ import PARTS
from bench.measuring import QUICK, Skipped, figures, take_turns
from bench.native import OUT

ROOT = Path(__file__).parent.parent
NINE = set(range(1, 10))


def nothing_measured() -> dict[str, Any]:
    return {"machine": "a machine", "load": "0.0", "plan": asdict(QUICK)}


def tables_of(page: str) -> list[list[str]]:
    """Runs of lines that begin with a bar."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [block.splitlines() for block in blocks]


def is_well_formed(page: str) -> bool:
    for table in tables_of(page):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        if len(table) < 2 or len(bars) != 1 or not set(table[1]) <= set("| -"):
            return False
    return True


def test_each_of_the_nine_ratios_has_a_line() -> None:
    assert {number for number, *_ in ratios.LIST} == NINE


def test_a_page_of_which_nothing_was_measured_says_so_for_each_ratio_and_each_section() -> None:
    page = report.write(nothing_measured())

    assert all(
        ratio.reached is None and "was left out" in ratio.measured for ratio in ratios.all_of(nothing_measured())
    )
    assert page.count("Not measured: ") == len(PARTS) == len(report.SECTIONS)
    assert is_well_formed(page)


def test_a_part_that_could_not_be_measured_gives_its_reason_in_the_page() -> None:
    page = report.write({**nothing_measured(), "deciding": {"skipped_whole": "there is no C compiler here (cc)"}})

    assert "Not measured: there is no C compiler here (cc)." in page
    assert "not measured: there is no C compiler here (cc)" in page


def test_competitors_take_turns_and_the_first_turn_is_not_counted() -> None:
    calls: list[str] = []

    def competitor(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = take_turns(
        {"a": lambda: competitor("a"), "b": lambda: competitor("b"), "dear": lambda: competitor("dear")},
        4,
        frozenset({"dear"}),
        2,
    )

    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 4, "b": 4, "dear": 2}
    assert calls.count("a") == 5
    assert min(min(seconds) for seconds in found.values()) > 3


def test_figures_are_milliseconds() -> None:
    found = figures([index / 1e3 for index in range(1, 101)])

    assert found == {"p50_ms": 50.5, "p99_ms": 100.0, "max_ms": 100.0, "n": 100}


def test_a_program_without_a_compiler_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.native.OUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    from bench.native import build

    with pytest.raises(Skipped, match="there is no C compiler"):
        build("sitter")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bench reads /proc")
def test_a_quick_bench_runs_to_its_end_and_writes_a_page_with_each_ratio(tmp_path: Path) -> None:
    page_file = tmp_path / "performance.md"

    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(page_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert done.returncode == 0, done.stderr
    page = page_file.read_text(encoding="utf-8")
    assert is_well_formed(page)
    assert all(
        f"| {number} | {what.replace('|', chr(92) + '|')} | {goal} |" in page for number, what, goal, _ in ratios.LIST
    )
    assert all(f"## {title}" in page for title, *_ in report.SECTIONS)
    assert str(ROOT) not in page
    results = json.loads((OUT / "quick.json").read_text(encoding="utf-8"))
    assert set(PARTS) <= set(results)
    assert not any("fault" in results[name] for name in PARTS)
    assert {ratio["number"] for ratio in results["ratios"]} == NINE
