"""What `admit doctor` says mends a finding: a command line that works when pasted, whatever the paths are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admit_cli.main import parse
from admitd import places
from admitd.core.respawn import Supervisor
from admitd.core.units import MIB
from admitd.doctor.finding import Answering, Held, Level, Missing
from admitd.doctor.gather import gather
from tests.core.worlds import service
from tests.daemons import free_port
from tests.test_doctor import CASES, CODER, GOOD, OLD, OWN_UNIT, both, declares, findings, sees

OTHER = "/h/o ther.yaml"
OF_NO_FILE = (["daemon", "restart"], ["daemon", "start"], ["events"], ["doctor", "--config"])
"""Commands of admit that go by no file, or name another one themselves."""
PLACEHOLDER = re.compile(r"\.\.\.|\u2026|[<>]|\b(CMD|FILE|LABEL|N|NAME|PID|UNIT|VALUE)\b|\{")
"""What stands for something else, and is no command when pasted. Of a shell's braces, EDITOR's alone."""


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}: {case[3]}" for case in CASES])
@pytest.mark.parametrize("config", [None, OTHER])
def test_every_remedy_can_be_pasted_and_goes_by_the_file_that_was_named(case: Any, config: str | None) -> None:
    for found in findings(case[0], replace(GOOD, **case[1], config=config)):
        assert not PLACEHOLDER.search((found.mend or "").removeprefix("${EDITOR:-vi} "))
        for part in re.split("; | && ", found.mend or ""):
            words = shlex.split(part)
            words = words[1:] if words and "=" in words[0] else words
            if words[:1] != ["admit"]:
                continue
            assert parse(words[1:]) is not None, part
            if config is not None and not any(words[1 : len(each) + 1] == each for each in OF_NO_FILE):
                assert words[1:3] == ["--config", OTHER], part


@pytest.mark.parametrize(
    ("name", "so", "mend"),
    [
        ("commands", {"missing": (Missing("", "notify_command", "say"),)}, "${EDITOR:-vi} '/h/o ther.yaml'"),
        ("memory", {"physical": 1 << 30}, "${EDITOR:-vi} '/h/o ther.yaml'"),
        (
            "safelist",
            {"capacity": declares(CODER, safelist=("coder",)), "look": sees("coder", uid=7)},
            "${EDITOR:-vi} '/h/o ther.yaml'",
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


QWEN = service("qwen", 2_000, process_pattern="mlx_lm.server .*Qwen", load_cmd="mlx_lm.server --model m/Qwen --port 81")
GEMMA = service("gemma", 2_000, process_pattern="mlx_lm.server ", load_cmd="mlx_lm.server --model m/Gemma --port 82")
TAIL = "tail -f mlx_lm.server --model m/Qwen.log"
SCRIPT = "python3 -m mlx_lm.server --model m/Qwen --port 81"


def mend(name: str, services: tuple[Any, ...], *looks: Any) -> str | None:
    (found,) = findings(name, replace(GOOD, capacity=declares(*services), look=both(*looks)))
    return found.mend


NARROWED = [
    (
        "its process shows its program",
        QWEN,
        both(sees("qwen", 8, line=SCRIPT, program="mlx_lm.server")),
        "mlx_lm.server",
    ),
    ("its load_cmd names its program", QWEN, both(), "mlx_lm.server"),
    ("two programs are it", QWEN, both(sees("qwen", 7, program="a"), sees("qwen", 8, program="b")), None),
    ("nobody knows its program", replace(QWEN, load_cmd=None), both(), None),
    (
        "its load_cmd only mentions it",
        replace(QWEN, load_cmd="caffeinate -i mlx_lm.server --model m/Qwen"),
        both(),
        None,
    ),
    ("its load_cmd has another start it", replace(QWEN, load_cmd="systemctl --user start qwen"), both(), None),
    ("a program is declared", replace(QWEN, program="mlx_lm.server"), both(), None),
    ("its program is the one that mentions it", QWEN, both(sees("qwen", 8, program="tail")), None),
]


@pytest.mark.parametrize(("service", "look", "program"), [each[1:] for each in NARROWED], ids=[e[0] for e in NARROWED])
def test_what_leaves_out_a_mention_is_the_services_own_program(service: Any, look: Any, program: str | None) -> None:
    """Never a name that no process has: the running server would be charged no more, and a second one admitted."""
    said = mend("overlaps", (service,), look, sees("qwen", 9, mention=True, line=TAIL, program="tail"))
    assert said == (f"admit service edit qwen program={program}" if program else "admit explain qwen")


def test_a_mention_whose_line_is_not_known_is_left_to_the_user() -> None:
    assert mend("overlaps", (QWEN,), sees("qwen", 9, mention=True, program="tail")) == "admit explain qwen"


def test_a_pattern_is_named_where_the_engine_is_known_and_it_would_be_right() -> None:
    wrong = replace(QWEN, process_pattern="Qwen3")
    told = "admit service edit qwen 'process_pattern=mlx_lm[. ]server .*Qwen( |/|$)'"
    assert mend("patterns", (wrong,)) == told
    assert mend("patterns", (replace(wrong, program="x"),)) == f"{told} program="
    assert mend("patterns", (replace(wrong, load_cmd="llama-server -m /m/Qwen.gguf"),)) == (
        "admit service edit qwen 'process_pattern=llama-server .*Qwen\\.gguf( |/|$)' program=llama-server"
    )
    twin = replace(QWEN, name="twin", process_pattern="--port 82", load_cmd="mlx_lm.server --model m/Qwen --port 82")
    by_port = "admit service edit qwen 'process_pattern=mlx_lm[. ]server .*--port 81( |$)'"
    assert mend("patterns", (wrong, twin)) == by_port, "their model would be both of them"
    copy = replace(QWEN, name="copy")
    assert mend("patterns", (wrong, copy)) == "admit explain qwen", "what a second one starts is no other"


def test_of_two_patterns_that_overlap_the_one_is_named_that_would_set_them_apart() -> None:
    line = QWEN.load_cmd
    at_once = (sees("qwen", 9, line=line), sees("gemma", 9, line=line))
    told = "admit service edit gemma 'process_pattern=mlx_lm[. ]server .*Gemma( |/|$)'"
    assert mend("overlaps", (QWEN, GEMMA), *at_once) == told
    assert mend("overlaps", (QWEN, GEMMA)) == told
    other = sees("gemma", 10, line="mlx_lm.server --model m/Other")
    assert mend("overlaps", (QWEN, GEMMA), *at_once, other) == "admit explain gemma", "nobody would be charged for it"
    assert mend("overlaps", (QWEN, replace(GEMMA, load_cmd="tts")), *at_once) == "admit explain gemma"


def test_what_the_daemon_loaded_is_not_unloaded_by_stopping_the_daemon() -> None:
    """It runs inside of the daemon's own unit, as the daemon's child."""
    assert OWN_UNIT is not None
    assert [each.level for each in findings("respawns", replace(GOOD, supervisors={"coder": OWN_UNIT}))] == [Level.OK]
    within = Supervisor("the systemd unit jupyter.service", None)
    of_root = Supervisor("the systemd unit coder.service", "sudo systemctl stop coder.service")
    for each in (within, of_root):
        (found,) = findings("respawns", replace(GOOD, supervisors={"coder": each}))
        assert (found.level, found.mend) == (Level.WARNING, None), "no unload is asked for a password"


POOL = 48 << 30


@pytest.mark.parametrize(
    ("held", "mend"),
    [
        (POOL - (1 << 30), f"admit service edit coder ram_budget_mb={POOL // MIB}"),
        (POOL, f"admit service edit coder ram_budget_mb={POOL // MIB}"),
        (POOL + 1, "admit unload coder"),
    ],
)
def test_no_budget_is_named_that_the_file_would_not_take(held: int, mend: str) -> None:
    (found,) = findings("budgets", replace(GOOD, held={"coder": Held(held)}))
    assert found.mend == mend


def test_the_last_port_has_no_next_one() -> None:
    (found,) = findings("port", replace(GOOD, port=65_535, answering=Answering(False)))
    assert found.mend == "ADMIT_PORT=65534 admit daemon run"


def test_macos_has_no_proc_to_look_at() -> None:
    (found,) = findings("processes", replace(GOOD, look=None, cannot_see="ps hangs", mac=True))
    assert found.mend == "ps -axww"
