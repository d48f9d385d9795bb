"""Where doctor says that the bound of a prompt cache is to be written: in what really starts that server, once."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from admit_cli.main import parse
from admit_cli.service import pairs
from admitd.core import respawn
from admitd.core.respawn import Supervisor
from admitd.doctor.finding import Facts, Level
from tests.test_doctor import BOUNDED, GOOD, MLX, MLX_SERVICE, OWN_UNIT, UID, declares, findings, sees
from tests.test_doctor_remedies import PLACEHOLDER

LIVE = sees("mlx", line=MLX)
ANEW = "admit unload mlx && admit load mlx"
WITH = "--prompt-cache-bytes 2000MB"
BY_HAND = "${EDITOR:-vi} /h/capacity.yaml"
UNIT = Supervisor("the systemd unit mlx.service", "systemctl --user stop mlx.service")
JOB = respawn.of_launchd("org.example.mlx", UID)
CONTAINER = Supervisor("the container 0123456789ab (docker)", "docker stop 0123456789ab")
PRINTED = "launchctl print gui/501/org.example.mlx | grep 'path ='"


def facts(load_cmd: Any, *, live: bool, kept: Supervisor | None = None) -> Facts:
    declared = declares(replace(MLX_SERVICE, load_cmd=load_cmd))
    supervisors = {} if kept is None else {"mlx": kept}
    seen = replace(GOOD, environ={"HOME": "/h"}, capacity=declared, supervisors=supervisors)
    return replace(seen, look=LIVE) if live else seen


LENGTHENED: list[tuple[Any, Any]] = [
    (MLX, f"{MLX} {WITH}"),
    (f"cd ~/m && exec {MLX}", f"cd ~/m && exec {MLX} {WITH}"),
    ("python3 -m mlx_lm server --model x\n", f"python3 -m mlx_lm server --model x {WITH}"),
    ("'/a b/mlx_lm.server' --model \"$HOME/x\"", f"'/a b/mlx_lm.server' --model \"$HOME/x\" {WITH}"),
    ("uv run mlx_lm.server --model x 2>>/tmp/log", f"uv run mlx_lm.server --model x 2>>/tmp/log {WITH}"),
    (("mlx_lm.server", "--model", 'a "b"'), ["mlx_lm.server", "--model", 'a "b"', *WITH.split()]),
]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("command", "longer"), LENGTHENED, ids=[str(each[0]) for each in LENGTHENED])
def test_a_command_that_starts_the_server_gets_the_option_and_stays_what_it_is(
    command: Any, longer: Any, live: bool
) -> None:
    (found,) = findings("caches", facts(command, live=live))
    words = shlex.split(found.mend or "")
    assert words[:4] == ["admit", "service", "edit", "mlx"]
    assert pairs(words[4:]) == [(("load_cmd",), longer)]


BY_THEIR_TEXT = [
    f"{MLX} >/tmp/log 2>&1 &",
    f"{MLX} | tee /tmp/log",
    f"{MLX} # the good one",
    f"if true; then {MLX}; fi",
    f"({MLX})",
    "mlx_lm.server --model $(cat model)",
    "sh -c 'mlx_lm.server --model x'",
    "sh -c mlx_lm.server",
]


@pytest.mark.parametrize("command", BY_THEIR_TEXT)
def test_where_the_option_cannot_simply_be_put_behind_the_file_is_opened(command: str) -> None:
    (found,) = findings("caches", facts(command, live=False))
    assert found.mend == BY_HAND
    assert found.what.endswith(f"; add {WITH} to its load_cmd")


# What starts it, who keeps it running, and the command that leads to where the option belongs. It runs, unbounded.
ELSEWHERE: list[tuple[Any, Supervisor | None, str]] = [
    ("systemctl --user start mlx.service", UNIT, f"systemctl --user edit --full mlx.service && {ANEW}"),
    (("systemctl", "--user", "start", "mlx"), None, f"systemctl --user edit --full mlx && {ANEW}"),
    ("sudo systemctl start mlx_lm.server.service", None, f"sudo systemctl edit --full mlx_lm.server.service && {ANEW}"),
    (None, UNIT, "systemctl --user edit --full mlx.service"),
    (BOUNDED.load_cmd, UNIT, f"systemctl --user edit --full mlx.service && {ANEW}"),
    ("launchctl kickstart -k gui/501/org.example.mlx", JOB, PRINTED),
    ("launchctl start org.example.mlx", None, PRINTED),
    ("sudo launchctl start mlx_lm.server", None, "launchctl print system/mlx_lm.server | grep 'path ='"),
    ("launchctl load -w ~/'L A/mlx.plist'", JOB, f"${{EDITOR:-vi}} '/h/L A/mlx.plist' && {ANEW}"),
    ("launchctl bootstrap gui/501 ~/mlx.plist", JOB, f"${{EDITOR:-vi}} /h/mlx.plist && {ANEW}"),
    ("launchctl kickstart gui/$(id -u)/org.example.mlx", JOB, PRINTED),
    (None, JOB, PRINTED),
    (BOUNDED.load_cmd, None, ANEW),
    (BOUNDED.load_cmd, OWN_UNIT, ANEW),
    (BOUNDED.load_cmd, replace(UNIT, stop=None), ANEW),
    (f"systemd-run --user {BOUNDED.load_cmd}", Supervisor("the systemd unit r1.service", UNIT.stop), ANEW),
    (f"systemd-run --user {MLX}", UNIT, BY_HAND),
    ("docker start mlx", CONTAINER, "admit explain mlx"),
    (None, CONTAINER, "admit explain mlx"),
    (None, None, "admit explain mlx"),
    ("/h/start.sh", None, "admit explain mlx"),
]


@pytest.mark.parametrize(("command", "kept", "mend"), ELSEWHERE)
def test_what_another_starts_is_mended_where_that_is_defined(command: Any, kept: Any, mend: str) -> None:
    (found,) = findings("caches", facts(command, live=True, kept=kept))
    assert (found.level, found.mend) == (Level.WARNING, mend)
    assert not PLACEHOLDER.search(mend.removeprefix("${EDITOR:-vi} "))
    for part in re.split(" && ", mend):
        assert not part.startswith("admit ") or parse(shlex.split(part)[1:]) is not None


@pytest.mark.parametrize("command", ["launchctl kickstart gui/501/mlx_lm.server", "docker start mlx_lm.server"])
def test_the_name_of_a_job_says_nothing_of_its_options(command: str) -> None:
    assert [each.level for each in findings("caches", facts(command, live=False))] == [Level.OK]


def test_the_words_say_where() -> None:
    (found,) = findings("caches", facts("systemctl --user start mlx.service", live=True, kept=UNIT))
    assert found.what.endswith(f"; add {WITH} to the ExecStart of the systemd unit mlx.service")
    (found,) = findings("caches", facts(None, live=True, kept=JOB))
    assert f"{WITH} to the ProgramArguments of the launchd job org.example.mlx, in the file" in found.what
