"""What the sentinel says of its acts: of what a command printed, no more than its first line."""

from __future__ import annotations

from pathlib import Path

from admitd.core.acts import Evict, Recover
from admitd.core.events import Event
from admitd.core.probing import Heard
from admitd.core.terms import Check, Probe
from admitd.mending import Mending
from tests.gates import gate, one_service

SAYS = "echo it cannot; echo password=hunter2; exit 3"


def test_what_an_unload_cmd_printed_is_told_to_its_first_line(tmp_path: Path) -> None:
    probed = Probe("http://127.0.0.1:9/", "GET", None, 200, 1.0, 0.0)
    _, declared = one_service(
        unload_cmd=SAYS, load_cmd="true", loaded_check_cmd="true", process_pattern=None, probe=probed
    )
    told: list[Event] = []
    always = gate(tmp_path, declared, run_checks=lambda commands: {"x": Check("x", True)})
    mending = Mending(always, lambda name: tmp_path / f"{name}.log", told.append)
    mending.evict(Evict("x", "it rests"))
    mending.recover(Recover("x", "it is hung", 1), lambda name, probe: Heard(name, False, "no answer", 0.1))
    assert [event.text for event in told if event.kind == "unload_failed"] == [
        "x should have been unloaded, because it rests, and could not be: its unload_cmd ended with exit 3: it cannot.",
        "x is hung and could not be unloaded: its unload_cmd ended with exit 3: it cannot.",
    ]
