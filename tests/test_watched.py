"""A capacity.yaml that is edited while it is in use: the last good one stays in force."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from admitd import capacity
from admitd.capacity import ConfigError, Watched
from admitd.core.terms import Capacity
from admitd.core.units import to_mb
from tests.capacity_files import Write, load, service, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


class Edited:
    """A watched file, the clock it is dated by, and what was told about it."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.path = write(service())
        self.told: list[str] = []
        self.reloaded: list[Capacity] = []
        self.loads = 0
        self.watched = Watched(self.path, self._load, on_problem=self.told.append, on_reloaded=self.reloaded.append)

    def _load(self, path: Path) -> Capacity:
        self.loads += 1
        return load(path)

    def edit(self, text: str) -> None:
        self.write(text)

    @property
    def budget(self) -> int:
        return to_mb(self.watched.current().services["x"].budget["ram"])


@pytest.fixture
def edited(write: Write, monkeypatch: pytest.MonkeyPatch) -> Edited:
    """Each signature differs, as it does between two edits that people make."""
    monkeypatch.setattr(capacity, "_UNSETTLED_NS", 0)
    return Edited(write)


def test_an_unchanged_file_is_read_once(edited: Edited) -> None:
    first = edited.watched.current()
    assert all(edited.watched.current() is first for _ in range(100))
    assert edited.loads == 1
    assert edited.watched.warnings == ()


def test_a_good_edit_is_in_force_with_the_next_look(edited: Edited) -> None:
    assert edited.budget == 100
    edited.edit(service(ram_budget_mb=2000))
    assert edited.budget == 2000
    assert [to_mb(each.services["x"].budget["ram"]) for each in edited.reloaded] == [2000]


def test_a_broken_edit_leaves_the_last_good_one_in_force_and_says_so_once(edited: Edited) -> None:
    edited.edit(service(ram_budget_mb="45 GB"))
    assert [edited.budget for _ in range(5)] == [100] * 5
    assert edited.loads == 2
    assert (
        edited.watched.warnings[0] == f"{edited.path} was changed and cannot be used; the last good one stays in force"
    )
    assert edited.watched.warnings[1].endswith('"45 GB" is text, not a number of MB; write 46080')
    assert edited.told == ["\n".join(edited.watched.warnings)]
    edited.edit(service(ram_budget_mb="45 GB") + "# still\n")
    assert edited.budget == 100
    assert len(edited.told) == 1
    edited.edit(service(ram_budget_mb="46 GB") + "# another\n")
    assert edited.budget == 100
    assert len(edited.told) == 2


def test_a_mended_file_is_told_even_where_nothing_changed(edited: Edited) -> None:
    edited.edit("a: [")
    assert edited.budget == 100
    edited.edit(service() + "# as before\n")
    assert edited.budget == 100
    assert edited.watched.warnings == ()
    assert len(edited.reloaded) == 1
    edited.edit("a: [")
    assert edited.budget == 100
    assert len(edited.told) == 2


def test_an_edit_of_a_comment_is_no_news(edited: Edited) -> None:
    edited.edit(service() + "# a comment\n")
    assert edited.budget == 100
    assert (edited.loads, edited.reloaded) == (2, [])


def test_a_deleted_file_stays_in_force_too(edited: Edited) -> None:
    edited.path.unlink()
    assert edited.budget == 100
    assert "cannot be read (No such file or directory)" in edited.watched.warnings[1]
    edited.edit(service(ram_budget_mb=300))
    assert edited.budget == 300
    assert edited.watched.warnings == ()


def test_a_file_that_became_loose_is_no_longer_believed(edited: Edited) -> None:
    edited.edit(service(ram_budget_mb=2000))
    edited.path.chmod(0o666)
    assert edited.budget == 100
    assert "chmod go-w" in edited.watched.warnings[1]


def test_a_file_put_in_its_place_is_noticed(edited: Edited) -> None:
    """As most editors save: write another file, then rename it. The date may be an old one."""
    old = edited.path.stat()
    other = edited.path.with_name("capacity.yaml.new")
    other.write_text(service(ram_budget_mb=200), encoding="utf-8")
    other.chmod(0o600)
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    other.replace(edited.path)
    assert edited.budget == 200


def test_a_folder_that_anyone_may_write_to_is_noticed_and_so_is_its_mending(edited: Edited, tmp_path: Path) -> None:
    """The command that the warning prints changes the folder, and not the file."""
    edited.edit(service(ram_budget_mb=200))
    tmp_path.chmod(0o777)
    assert edited.budget == 100
    assert edited.watched.warnings[1].endswith(f"run: chmod o-w {tmp_path}")
    tmp_path.chmod(0o775)
    assert edited.budget == 200
    assert edited.watched.warnings == ()


def test_the_folder_behind_a_link_is_noticed_as_well(write: Write, tmp_path: Path) -> None:
    path = write(service())
    (tmp_path / "behind").mkdir()
    path.rename(tmp_path / "behind" / path.name)
    path.symlink_to(tmp_path / "behind" / path.name)
    watched = Watched(path, load)
    (tmp_path / "behind").chmod(0o777)
    watched.current()
    assert any("chmod o-w" in each for each in watched.warnings)
    (tmp_path / "behind").chmod(0o700)
    watched.current()
    assert watched.warnings == ()


def test_what_comes_and_goes_beside_the_file_is_no_edit(edited: Edited, tmp_path: Path) -> None:
    assert edited.budget == 100
    (tmp_path / "another").touch()
    assert edited.budget == 100
    assert edited.loads == 1


def test_two_edits_within_one_tick_of_the_clock_are_both_noticed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's clock for files ticks every few milliseconds; so a file that is that young is read once more."""
    edited = Edited(write)
    found = edited.path.stat()
    newest = max(found.st_mtime_ns, found.st_ctime_ns)
    clock = newest
    monkeypatch.setattr(capacity, "_signature", lambda path: (0, 0, 0, 0, int(clock - newest < 50_000_000)))
    edited.watched = Watched(edited.path, edited._load)
    edited.edit(service(ram_budget_mb=200))
    assert edited.budget == 100  # nothing shows the edit yet
    clock = newest + 60_000_000
    assert edited.budget == 200


def test_a_young_file_has_another_signature_than_the_same_file_grown_old(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(service())
    found = path.stat()
    newest = max(found.st_mtime_ns, found.st_ctime_ns)
    monkeypatch.setattr(time, "time_ns", lambda: newest + 1_000_000)
    young = capacity._signature(path)
    monkeypatch.setattr(time, "time_ns", lambda: newest + 60_000_000)
    assert young != capacity._signature(path)


def test_a_file_that_is_bad_to_begin_with_is_an_error(write: Write) -> None:
    with pytest.raises(ConfigError):
        Watched(write("a: ["), load)


def test_many_problems_are_a_few_warnings(edited: Edited) -> None:
    edited.edit(service() + "".join(f"k{i}: 1\n" for i in range(100)))
    assert edited.budget == 100
    assert len(edited.watched.warnings) == 12
    assert edited.watched.warnings[-1] == "and 90 more problems"
