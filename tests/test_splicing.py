"""One place of a YAML text changes, and every other byte stays."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import Any

import pytest

from admitd import changing, splicing, yamlfile, yamlwrite
from admitd.changing import ByHand, Put, Remove, Taken
from admitd.problem import ConfigError
from tests.capacity_files import HOSTS, load

FILE = """# mine
services:   # all of them
  # the first
  a:
    ram_budget_mb: 100   # measured
    probe:
      url: http://h/x    # fast
    # load_cmd: later

  # the second, which
  # is dear to me
  b:
    ram_budget_mb: 7
    exclusive_with:
      - a
      - c
  c: {ram_budget_mb: 3, process_pattern: 'x, y'}  # small
    # deep

# the end
"""

CHANGES = [
    ("a number", Put(("services", "a", "ram_budget_mb"), 99), ("mb: 100 ", "mb: 99 ")),
    ("deeper", Put(("services", "a", "probe", "url"), "http://h:1/y"), ("http://h/x ", "http://h:1/y ")),
    (
        "a new key goes last, behind the comments of its neighbours",
        Put(("services", "a", "probe", "timeout_s"), 5.0),
        ("# fast\n", "# fast\n      timeout_s: 5\n"),
    ),
    (
        "a list becomes one line",
        Put(("services", "b", "exclusive_with"), ["a"]),
        ("\n      - a\n      - c\n", " [a]\n"),
    ),
    ("in brackets", Put(("services", "c", "priority"), 2), ("'x, y'}", "'x, y', priority: 2}")),
    ("in brackets, changed", Put(("services", "c", "ram_budget_mb"), 4), ("{ram_budget_mb: 3,", "{ram_budget_mb: 4,")),
    (
        "a mapping that was not there",
        Put(("services", "b", "probe", "url"), "http://h/"),
        ("      - c\n", "      - c\n    probe:\n      url: http://h/\n"),
    ),
    ("the first of brackets goes", Remove(("services", "c", "ram_budget_mb")), ("{ram_budget_mb: 3, ", "{")),
    ("the last of brackets goes", Remove(("services", "c", "process_pattern")), (", process_pattern: 'x, y'}", "}")),
    (
        "a service goes with its comment",
        Remove(("services", "b")),
        (FILE[FILE.index("  # the second") : FILE.index("  c:")], ""),
    ),
    (
        "the first service goes, and what stood in it",
        Remove(("services", "a")),
        (FILE[FILE.index("  # the first") : FILE.index("  # the second")], ""),
    ),
    (
        "the last service goes",
        Remove(("services", "c")),
        (FILE[FILE.index("  c:") : FILE.index("\n# the end")], ""),
    ),
    (
        "a new service, written by hand",
        Put(("services", "d"), {"ram_budget_mb": 1}, ("# new", "d:", "  ram_budget_mb: 1  # one")),
        ("    # deep\n", "    # deep\n\n  # new\n  d:\n    ram_budget_mb: 1  # one\n"),
    ),
]


@pytest.mark.parametrize(("change", "differs"), [pytest.param(c, d, id=why) for why, c, d in CHANGES])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_change(change: splicing.Change, differs: tuple[str, str], newline: str) -> None:
    """As a person would have written it; with the line ends of the file."""
    old, new = differs
    assert FILE.count(old) == 1
    wanted = FILE.replace(old, new).replace("\n", newline)
    after, line = splicing.apply(FILE.replace("\n", newline), change)
    assert after == wanted
    first = next(i for i, (x, y) in enumerate(zip(FILE.splitlines(), after.splitlines(), strict=False)) if x != y)
    assert line <= first + 2
    meant = yamlfile.read(FILE.encode(), "f").value
    changing._apply(meant, change)
    assert yamlfile.read(after.encode(), "f").value == meant


def test_an_empty_mapping_is_opened_up_and_the_last_entry_leaves_one() -> None:
    text = "a: 1\nservices: {}   # none yet\nlive_veto: off\n"
    after, _ = splicing.apply(text, Put(("services", "x"), {"ram_budget_mb": 1, "probe": {"url": "http://h/a"}}))
    assert after == (
        "a: 1\nservices:   # none yet\n  x:\n    ram_budget_mb: 1\n    probe:\n      url: http://h/a\nlive_veto: off\n"
    )
    again, _ = splicing.apply(after, Remove(("services", "x")))
    assert yamlfile.read(again.encode(), "f").value == yamlfile.read(text.encode(), "f").value


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("x: &a {k: 1}\ny: *a\n", Put(("y", "k"), 2)),
        ("x: !!int 3\n", Put(("x",), 2)),
        ("x: [1]\n", Put(("x", "k"), 2)),
        ("x: 1\n", Remove(("y",))),
        ("x: [1\n", Put(("x",), 2)),
        ("x:\n  - 1  # one\n  - 2\n", Put(("x",), [3])),
        ("? x\n: 1\n? y\n: 2\n", Remove(("y",))),
    ],
)
def test_what_cannot_be_cut_safely_is_refused(text: str, change: splicing.Change) -> None:
    with pytest.raises(splicing.CannotCut):
        splicing.apply(text, change)


VALUES = [
    *("plain", "", "yes", "8188", "a: b", "it's", 'say "hi" it\'s', "a #b", "[x]", "*x", "- x", "x\ny", "tab\t", "é"),
    *("a, b", "http://h:1/x", "{", "null", "1e5", "~", "%x", "@x", "x:", "\\d+ 'q'", 1, 1.5, 2.0, True, None, []),
    *(["a", "b, c", "-x"], {"model": "m:1", "n": [1, {"x": "y: z"}]}, "x" * 300, "9" * 500),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_what_is_written_is_what_is_read(value: Any) -> None:
    text = "\n".join([*yamlwrite.lines("k", value, 0), f"flow: {yamlwrite.scalar({'a': value, 'b': [value]})}"])
    assert yamlfile.read(text.encode(), "f").value == {"k": value, "flow": {"a": value, "b": [value]}}


GOOD = HOSTS + "services:\n  x: {ram_budget_mb: 100, process_pattern: a}   # mine\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "capacity.yaml"
    path.write_text(GOOD)
    path.chmod(0o640)
    return path


def test_two_who_write_at_once_do_not_overwrite_each_other(path: Path) -> None:
    """Of two that began with the same file, one is told to look again; what is written is whole."""
    began = threading.Barrier(8, timeout=30)
    outcomes: list[str] = []

    def slow(found: Path) -> Any:
        good = load(found)
        if found != path:
            return good
        began.wait()
        return good

    def one(number: int) -> None:
        try:
            changing.change(path, [Put(("services", f"s{number}"), {"ram_budget_mb": 1, "process_pattern": "b"})], slow)
            outcomes.append("written")
        except ByHand as why:
            outcomes.append("refused" if "edited meanwhile" in str(why) else str(why))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert sorted(outcomes) == ["refused"] * 7 + ["written"]
    assert len(load(path).services) == 2
    assert [each.name for each in path.parent.iterdir()] == ["capacity.yaml"]


def test_who_comes_second_waits_and_is_told(path: Path) -> None:
    """While one is at it, the other one waits; then he finds that the file is no longer what he read."""
    said: list[str] = []

    def second() -> None:
        try:
            changing.change(path, [Put(("services", "x", "priority"), 1)], load)
        except ByHand as why:
            said.append(str(why))

    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(1)  # long enough for one who does not wait to have written
        newer = path.with_name("newer")
        newer.write_text(GOOD.replace("100", "200"))
        newer.chmod(0o600)
        newer.replace(path)
    thread.join(30)
    assert len(said) == 1
    assert "edited meanwhile" in said[0]
    assert path.read_text() == GOOD.replace("100", "200")


def test_a_change_that_makes_the_file_wrong_is_not_written(path: Path) -> None:
    with pytest.raises(ConfigError, match="no service") as caught:
        changing.change(path, [Put(("services", "x", "exclusive_with"), ["nobody"])], load)
    assert caught.value.problems[0].file == str(path)
    assert path.read_text() == GOOD
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_change_that_others_would_feel_is_not_written(path: Path) -> None:
    text = HOSTS + "services:\n  y: &y {ram_budget_mb: 7, process_pattern: b}\n  x: {<<: *y, process_pattern: a}\n"
    path.write_text(text)
    with pytest.raises(ByHand, match="more would change"):
        changing.change(path, [Put(("services", "y", "ram_budget_mb"), 9)], load)
    assert path.read_text() == text


def test_a_new_file_is_its_owners_alone_and_never_overwrites(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "below" / "capacity.yaml"
    changing.create(new, GOOD, load)
    assert (new.stat().st_mode & 0o777, new.read_text()) == (0o600, GOOD)
    with pytest.raises(Taken, match="stays as it is"):
        changing.create(path, "# other\n" + GOOD, load)
    assert path.read_text() == GOOD
    with pytest.raises(ConfigError):
        changing.create(tmp_path / "wrong.yaml", "services: {}\n", load)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["below", "capacity.yaml"]
