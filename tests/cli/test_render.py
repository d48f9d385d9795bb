"""What people read: 80 columns, numbers that are honest, and nothing that paints the terminal."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import pytest

from admit_cli import render
from admit_cli.tell import printable
from admitd import unloading
from admitd.core.respawn import Supervisor

LEDGER: dict[str, Any] = {
    "host": "box",
    "pool_mb": 10_000,
    "charged_mb": 0,
    "free_mb": 10_000,
    "ram_physical_mb": 16_000,
    "ram_reserved_mb": 4000,
    "ram_safety_mb": 2000,
    "services": [],
    "undeclared": [],
    "reservations": [],
    "waiting": [],
    "warnings": [],
    "pressure": {"level": None, "why": "not known"},
    "live_veto": True,
}


def service(name: str, state: str = "stopped", charged_mb: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "ram_budget_mb": 6000,
        "charged_mb": charged_mb,
        "measured_mb": None,
        "priority": 0,
        "pids": [],
        "mentioned_by": [],
        "matched_by": None,
        "pinned": False,
        **more,
    }


def condition(probe: str | None = None, busy: bool | None = False, **more: Any) -> dict[str, Any]:
    """What the sentinel found, as GET /capacity has it."""
    known = {"busy": busy, "active_s_ago": None, "probe": probe, "probe_failures": 0, "half_loaded": None}
    return {"condition": {**known, "activity": "", "peak_mb": None, **more}}


WATCHED = [
    service("chat", "loaded", 4000, pids=[11, 12], **condition("left_alone", active_s_ago=3700.0, probe_failures=3)),
    service("coder", "loaded", 3000, pids=[13], **condition("silent", None, probe_failures=2)),
    service("images", "loaded", 900, pids=[14], **condition("busy", True)),
    service("night", "stopped", loadable=True, **condition("left_alone")),
    service("other", "reserved", 500, **condition("recovering")),
    service("vision", "half_loaded", 500, pids=[15], **condition("unasked", half_loaded="it never answered")),
    service("words", "loaded", 500, pids=[16], **condition("answers", active_s_ago=59.0)),
]


def test_an_empty_machine() -> None:
    lines = render.status(LEDGER).splitlines()
    assert lines[0] == "box: 0 of 10000 MB charged, 10000 MB free"
    assert lines[1] == f"[{'.' * 77}]"
    assert lines[-1] == "no services are declared"


@pytest.mark.parametrize(
    "charges", [(), (1,), (5000,), (10_000,), (3000, 3000, 4000), (9999, 1, 1), (20_000,), (1,) * 90]
)
def test_the_pool_bar_is_79_wide_whatever_is_charged(charges: tuple[int, ...]) -> None:
    services = [service(f"{chr(97 + n % 26)}{n}", "loaded", charge) for n, charge in enumerate(charges)]
    ledger = {**LEDGER, "services": services, "charged_mb": sum(charges)}
    (line,) = (each for each in render.status(ledger).splitlines() if each.startswith("["))
    assert len(line) == 79
    assert all(each["name"][0] in line for each in services[:20])
    assert line.endswith(">" if sum(charges) > 10_000 else "]")


def test_neighbours_with_the_same_letter_are_told_apart() -> None:
    services = [service("chat", "loaded", 5000), service("coder", "loaded", 2500)]
    assert f"[{'c' * 38}{'C' * 19}{'.' * 20}]" in render.status({**LEDGER, "services": services})


def test_states_are_told_apart() -> None:
    services = [
        service("real", "loaded", 6000, pids=[1, 2, 3, 4, 5, 6], measured_mb=4321, matched_by="process_pattern"),
        service("named", "loaded", 6000, mentioned_by=[7], matched_by="mention"),
        service("checked", "loaded", 6000, matched_by="loaded_check_cmd"),
        service("kept", "stopped", 6000, pinned=True),
    ]
    said = render.status({**LEDGER, "services": services, "charged_mb": 24_000, "free_mb": -14_000})
    assert "OVER-COMMITTED by 14000 MB" in said
    assert "4321" in said
    assert "1 2 3 4 ..." in said
    assert "only mentioned by 7" in said
    assert "its check says so" in said
    assert "(pinned)" in said


def test_what_answers_nobody_is_not_called_loaded() -> None:
    said = render.status({**LEDGER, "services": WATCHED, "charged_mb": 9_400}).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in said[6:13]}
    assert [(name, row[0]) for name, row in rows.items()] == [
        *(("chat", "hung"), ("coder", "silent"), ("images", "loaded"), ("night", "stopped"), ("other", "recovering")),
        *(("vision", "half_loaded"), ("words", "loaded")),
    ]
    assert (rows["chat"][1:3], rows["words"][1:3]) == (["idle", "1h"], ["idle", "59s"])
    assert [rows[name][1] for name in ("coder", "images", "night", "vision")] == ["unknown", "working", "-", "idle"]
    assert max(map(len, said[:13])) <= 80
    assert said[13:] == [
        "chat is hung and left alone (why: admit events --service chat): admit unload chat",
        "coder is silent, 2 probes in a row: admit events --service coder",
        "night was hung, is gone, and is left alone (why: admit events --service night): admit load night",
        "other is being recovered: admit events --service other --follow",
        "vision is half loaded: it never answered: admit explain vision",
    ]
    assert "admit --config /my.yaml unload chat" in render.status({**LEDGER, "services": WATCHED}, "/my.yaml")


def test_what_a_service_does_is_left_out_where_its_line_would_wrap() -> None:
    many = {"pids": [4_100_001, 4_100_002], **condition("answers")}
    fits, wraps = (service("n" * length, "loaded", 10, **many) for length in (10, 40))
    lines = render.status({**LEDGER, "services": [fits]}).splitlines()
    assert lines[6].endswith(" 4100001 ...") and len(lines[6]) <= 80 and "ACTIVITY" in lines[5]
    lines = render.status({**LEDGER, "services": [wraps]}).splitlines()
    assert "ACTIVITY" not in lines[5] and lines[6].endswith(" 4100001 4100002")


def test_warnings_cannot_paint_the_terminal() -> None:
    assert "warning: torn?[31m x" in render.status({**LEDGER, "warnings": ["torn\x1b[31m\nx"]})


@pytest.mark.parametrize(
    ("text", "shown"), [("plain", "plain"), ("a\nb\tc", "a b c"), ("\x1b[2J\x07", "?[2J?"), ("süß 模型", "süß 模型")]
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_bar_shows_what_goes_beyond() -> None:
    assert [render.bar(share, 4) for share in (-1, 0, 0.5, 1, 1.1)] == [
        "[....]",
        "[....]",
        "[##..]",
        "[####]",
        "[####>",
    ]


def test_a_refusal_names_the_first_blockers_and_counts_the_rest() -> None:
    blockers = [{"service": f"s{n}", "charged_mb": 10, "why": "it is charged 10 MB"} for n in range(11)]
    refused = {
        "service": "big",
        "reason": "no-headroom",
        "detail": "x.",
        "blockers": blockers,
        "remedy": None,
        "victims": [],
    }
    said = render.refusal(refused)
    assert said.count("in the way:") == 8
    assert "... and 3 more: admit status" in said
    assert "make room" not in said


def test_the_advice_to_kill_is_only_for_what_can_be_killed() -> None:
    late = unloading.UnloadTimedOut("coder is still there 5 s after it was asked to go", (12,))
    said = render.unload_outcome("coder", late, "my file.yaml")
    command = said.split("end it for certain: ")[1]
    words = shlex.split(command)
    assert words[:2] == ["admit", "--config"]
    assert words[2].startswith("/") and words[2].endswith("/my file.yaml")
    assert words[3:] == ["unload", "coder", "--kill"]
    assert "--kill" not in render.unload_outcome("coder", unloading.UnloadTimedOut("its check still says so", ()), None)


def test_the_advice_for_what_is_started_again_is_what_stops_it() -> None:
    for stop, advice in (("kill 7", "this stops it for good: kill 7"), (None, "see what it is: admit explain coder")):
        back = unloading.UnloadTimedOut("coder went, and x started it again", (12,), Supervisor("x", stop))
        said = render.unload_outcome("coder", back, None)
        assert said == f"coder went, and x started it again (pid 12); {advice}"


def test_json_in_a_locale_without_utf8(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_is_utf8", lambda encoding: False)
    render.print_json({"name": "süß"})
    assert "\\u00fc" in capsys.readouterr().out


def test_what_is_watched_fits_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    text = "\n".join(f"line {n}" for n in range(100))
    assert render.on_screen(text).count("\n") == 22
    assert "... and 78 lines more: admit status" in render.on_screen(text)
    assert render.on_screen("one").endswith("one\x1b[K\x1b[J")


def rows_of(screen: str, columns: int) -> int:
    """How many rows a terminal needs for it, by what it shows of each line."""
    shown = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", screen)
    return sum(max(1, -(-len(line) // columns)) for line in shown.split("\n"))


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (80, 10), (40, 24), (20, 5)])
def test_lines_that_wrap_do_not_push_the_pool_off_the_screen(
    columns: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((columns, rows)))
    text = "\n".join(["box: \x1b[32m1500 MB free\x1b[0m", *(f"{'warning ' * 14}{n}" for n in range(12))])
    screen = render.on_screen(text)
    assert rows_of(screen, columns) < rows, "the cursor stands in a row of its own"
    assert "box: " in screen and "\n... and " in screen


def test_letters_that_are_two_columns_wide_are_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    assert "more: admit status" in render.on_screen("\n".join(["\u5b57" * 41] * 12))
    assert "more: admit status" not in render.on_screen("\n".join(["\xfc" * 80] * 12))


def test_colours_need_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    assert "more: admit status" not in render.on_screen("\n".join(["\x1b[33m" + "x" * 80 + "\x1b[0m"] * 20))
