"""What `admit doctor` says mends a finding: a command line that works when pasted, whatever the paths are."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admit_cli.main import parse
from admitd import places
from admitd.core.units import MIB
from admitd.doctor.finding import Answering, Held, Missing
from admitd.doctor.gather import gather
from tests.daemons import free_port
from tests.test_doctor import CASES, CODER, GOOD, OLD, declares, findings, sees

OTHER = "/h/o ther.yaml"
OF_NO_FILE = (["daemon", "restart"], ["daemon", "start"], ["events"], ["doctor", "--config"])
"""Commands of admit that go by no file, or name another one themselves."""


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}: {case[3]}" for case in CASES])
def test_every_remedy_goes_by_the_file_that_was_named(case: Any) -> None:
    for found in findings(case[0], replace(GOOD, **case[1], config=OTHER)):
        for part in (found.mend or "").split("; "):
            words = shlex.split(part)
            words = words[1:] if words and "=" in words[0] else words
            if words[:1] == ["admit"] and not any(words[1 : len(each) + 1] == each for each in OF_NO_FILE):
                assert words[1:3] == ["--config", OTHER], part
                assert parse(words[1:]) is not None


@pytest.mark.parametrize(
    ("name", "so", "mend"),
    [
        ("commands", {"missing": (Missing("", "notify_command", "say"),)}, "$EDITOR '/h/o ther.yaml'"),
        ("memory", {"physical": 1 << 30}, "$EDITOR '/h/o ther.yaml'"),
        (
            "safelist",
            {"capacity": declares(CODER, safelist=("coder",)), "look": sees("coder", uid=7)},
            "$EDITOR '/h/o ther.yaml'",
        ),
        (
            "daemon",
            {"answering": Answering(True, "1.2", None, 7, "admitd", "/an other.yaml")},
            "admit doctor --config '/an other.yaml'",
        ),
        ("disk", {"journal_problem": "x", "journal": "/a b/journal.jsonl"}, "ls -l '/a b/journal.jsonl'"),
        (
            "daemon",
            {"answering": OLD, "keeper": None, "config": OTHER},
            "kill 77; admit --config '/h/o ther.yaml' daemon run",
        ),
        (
            "budgets",
            {"held": {"coder": Held(7_000 * MIB)}, "config": OTHER},
            "admit --config '/h/o ther.yaml' service edit coder ram_budget_mb=8192",
        ),
    ],
)
def test_a_path_with_a_blank_stays_one_word(name: str, so: dict[str, Any], mend: str) -> None:
    (found,) = findings(name, replace(GOOD, **{"path": OTHER, **so}))
    assert found.mend == mend


def test_a_token_below_a_folder_with_a_blank_is_closed_by_what_is_said(tmp_path: Path) -> None:
    """As below Application Support, where it always lies on macOS."""
    environ = {"HOME": str(tmp_path / "a home"), "PATH": os.environ["PATH"], "ADMIT_STATE_DIR": str(tmp_path / "s t")}
    places.token(environ)
    token = Path(places.user_folder(environ), "token")
    token.chmod(0o644)
    (tmp_path / "s t").mkdir()
    (tmp_path / "s t").chmod(0o777)
    loose = gather(environ, None, free_port()).loose
    assert [mend for _, mend in loose] == [f"chmod 600 '{token}'", f"chmod 1777 '{tmp_path / 's t'}'"]
    for _, mend in loose:
        subprocess.run(mend, shell=True, check=True, timeout=60)
    assert gather(environ, None, free_port()).loose == ()
