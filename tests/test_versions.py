"""What an older admit wrote keeps working, and what a newer one wrote is said to be newer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from admitd import capacity
from admitd.core.events import Event
from admitd.journal import Journal
from tests.ownhome import Home

OLD = """\
hosts:
  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}
services:
  x: {ram_budget_mb: 100, process_pattern: abc}
"""
OLD_LINE = (
    '{"id":7,"at":1764000000.5,"boot":"b","since_boot_s":9.5,"pid":42,"version":"0.1.0","kind":"loaded",'
    '"severity":"info","service":"x","text":"x is loaded after 1.0 s","next":null,"numbers":{"took_s":1.0}}'
)
"""As 0.1.0 wrote it, before lines said which version of the journal they are of."""
NEWER_LINE = (
    '{"v":2,"id":8,"at":1764000001.5,"boot":"b","since_boot_s":9.5,"pid":42,"version":"9.0.0","kind":"teleported",'
    '"severity":"grave","service":"x","text":"x went elsewhere","where":{"host":"y"},"numbers":{}}'
)


def load(path: Path, text: str) -> capacity.Capacity:
    path.write_text(text)
    path.chmod(0o600)
    return capacity.load(path, names=lambda: ["box"])


def test_a_file_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "capacity.yaml"
    assert load(path, OLD) == load(path, "version: 1\n" + OLD)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2", "version: 2 is newer than 1, the newest that admit"),
        ("0", "version: 0 is not between 1 and 1; write for example 1"),
        ("'1'", 'version: "1" is not a whole number; write a whole number, for example 1'),
        ("1.0", "is not a whole number"),
        ("on", "is not a whole number"),
    ],
)
def test_a_version_that_is_not_known_is_told(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(capacity.ConfigError) as found:
        load(tmp_path / "capacity.yaml", f"version: {written}\n" + OLD)
    assert said in str(found.value)


def test_what_else_is_wrong_with_a_newer_file_is_told_after_its_version(tmp_path: Path) -> None:
    with pytest.raises(capacity.ConfigError) as found:
        load(tmp_path / "capacity.yaml", "version: 2\nteleport: on\n" + OLD)
    newer, unknown = found.value.problems
    assert (newer.path, unknown.path) == ("version", "teleport")
    assert newer.instead.startswith("upgrade admit")


def test_each_line_of_the_journal_says_its_version(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(Event("loaded", "x is loaded"))
    assert json.loads(journal.path.read_text())["v"] == 1


def test_an_older_journal_is_read_and_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.path.write_text(OLD_LINE + "\n")
    journal.write(Event("unloaded", "x was unloaded"))
    old, new = journal.read()
    assert (old.id, old.format, old.version, old.event.numbers["took_s"]) == (7, 1, "0.1.0", 1.0)
    assert (new.id, new.format) == (8, 1)


def test_a_newer_journal_is_read_as_far_as_it_is_known_and_said_to_be_newer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.remember("x is loaded", "x")
    with home.journal.path.open("a") as file:
        file.write(NEWER_LINE + "\n")
    code, out, err = home.admit("events")
    assert (code, "x went elsewhere" in out, "x is loaded" in out) == (0, True, True)
    assert err == (
        "admit: a newer admit wrote some of these (version 2 of the journal, and this one knows 1): "
        "what is new in them is not shown\n"
    )
    home.remember("x was unloaded", "x")
    assert [entry.id for entry in home.remembered()] == [1, 8, 9]
