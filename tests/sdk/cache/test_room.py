"""The rules of what goes: a referenced file never, the oldest use first, no more than is needed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from admit_sdk.cache import room
from admit_sdk.cache.room import Fits, Never, NotNow
from admit_sdk.cache.terms import CachedFile, Contents, Leftover, Reference

DAY_S = 86_400.0
NOW = 1_000 * DAY_S
SIZES = st.integers(0, 60)
TIMES = st.integers(0, 1_010).map(lambda day: day * DAY_S)
REFERENCES = st.lists(st.builds(Reference, st.just("app"), st.integers(1, 9), TIMES), max_size=2).map(tuple)


def file(key: str, size: int, used_at: float = 0.0, references: int = 0, opened: bool = False) -> CachedFile:
    held = tuple(Reference("app", pid + 1, 0.0) for pid in range(references))
    return CachedFile(key, key, "", size, used_at, held, opened)


def left(key: str, size: int, used_at: float = 0.0, runs: bool = False, total: int | None = None) -> Leftover:
    return Leftover(key, key, "", size, total, used_at, runs)


FILES = st.lists(
    st.builds(file, st.uuids().map(str), SIZES, TIMES, st.sampled_from([0, 0, 1, 2]), st.booleans()), max_size=8
)
LEFTOVERS = st.lists(
    st.builds(left, st.uuids().map(str), SIZES, TIMES, st.booleans(), st.one_of(st.none(), SIZES)), max_size=3
)
CONTENTS = st.builds(
    Contents, FILES.map(tuple), LEFTOVERS.map(tuple), st.integers(0, 400), st.integers(0, 400), st.integers(0, 40)
)


def fits(contents: Contents, gone: tuple[room.Victim, ...], total: int, write: int) -> bool:
    """The plain statement of it: within the maximum, and on the disk."""
    freed = sum(each.size_bytes for each in gone)
    on_disk = contents.unwritten_bytes + write <= contents.free_bytes + freed - contents.spare_bytes
    nobody_writes = not total and not contents.unwritten_bytes
    return contents.held_bytes - freed + total <= contents.max_bytes and (on_disk or nobody_writes)


@given(CONTENTS, SIZES, SIZES)
def test_what_is_in_use_never_goes(contents: Contents, total: int, write: int) -> None:
    answer = room.make_room(contents, total, write)
    victims = answer.victims if isinstance(answer, Fits) else ()
    for victim in (*victims, *room.collect(contents, NOW)):
        assert not (victim.runs if isinstance(victim, Leftover) else victim.in_use)
        assert victim in contents.files or victim in contents.downloads


@given(CONTENTS, SIZES, SIZES)
def test_the_oldest_use_goes_first_and_no_more_than_is_needed(contents: Contents, total: int, write: int) -> None:
    answer = room.make_room(contents, total, write)
    order = room.may_go(contents)
    if isinstance(answer, Fits):
        assert list(answer.victims) == order[: len(answer.victims)]
        assert fits(contents, answer.victims, total, write)
        assert not answer.victims or not fits(contents, answer.victims[:-1], total, write)
    elif isinstance(answer, NotNow):
        assert answer.short_bytes > 0
        assert not fits(contents, tuple(order), total, write)
        roomier = replace(
            contents,
            max_bytes=contents.max_bytes + answer.short_bytes,
            free_bytes=contents.free_bytes + answer.short_bytes,
        )
        assert isinstance(room.make_room(roomier, total, write), Fits)
    else:
        assert isinstance(answer, Never)
        assert total > contents.max_bytes


@given(CONTENTS)
def test_the_order_is_that_of_last_use(contents: Contents) -> None:
    order = room.may_go(contents)
    assert [each.used_at for each in order] == sorted(each.used_at for each in order)


@given(CONTENTS)
def test_collecting_takes_all_that_is_idle_and_leaves_the_cache_within_its_bounds(contents: Contents) -> None:
    gone = room.collect(contents, NOW)
    assert len(set(map(id, gone))) == len(gone)
    stay = [each for each in room.may_go(contents) if each not in gone]
    assert all(NOW - each.used_at <= room.IDLE_S for each in stay)
    if stay:
        assert fits(contents, gone, 0, 0)
    twice = replace(
        contents,
        files=tuple(each for each in contents.files if each not in gone),
        downloads=tuple(each for each in contents.downloads if each not in gone),
        free_bytes=contents.free_bytes + sum(each.size_bytes for each in gone),
    )
    assert room.collect(twice, NOW) == ()


def test_a_table_of_who_goes() -> None:
    old, new, used = file("old", 40, 1.0), file("new", 30, 2.0), file("used", 20, 0.0, references=1)
    contents = Contents((new, used, old), (), 100, 1_000, 0)
    assert room.make_room(contents, 10, 10) == Fits(())
    assert room.make_room(contents, 11, 11) == Fits((old,))
    assert room.make_room(contents, 60, 60) == Fits((old, new))
    assert room.make_room(contents, 81, 81) == NotNow(1, disk=False)
    assert room.make_room(contents, 101, 101) == Never()
    assert room.make_room(contents, 10, 10, 90) == Fits(())
    assert room.make_room(contents, 10, 10, 91) == Never()
    tight = replace(contents, free_bytes=50, spare_bytes=10, max_bytes=1_000)
    assert room.make_room(tight, 500, 40) == Fits(())
    assert room.make_room(tight, 500, 41) == Fits((old,))
    assert room.make_room(tight, 500, 111) == NotNow(1, disk=True)


def test_what_running_downloads_were_promised_is_not_given_away() -> None:
    running = left("running", 10, runs=True, total=60)
    contents = Contents((), (running,), 100, 1_000, 0)
    assert (contents.held_bytes, contents.unwritten_bytes) == (60, 50)
    assert room.make_room(contents, 40, 40) == Fits(())
    assert room.make_room(contents, 41, 41) == NotNow(1, disk=False)
    broken_off = replace(contents, downloads=(replace(running, runs=False),))
    assert room.make_room(broken_off, 90, 90) == Fits(())


def test_thirty_days_and_not_a_moment_less() -> None:
    contents = Contents((file("a", 1, NOW - 30 * DAY_S), file("b", 1, NOW - 30 * DAY_S - 1)), (), 100, 100, 0)
    assert [each.sha256 for each in room.gone_idle(contents, NOW)] == ["b"]


def test_a_use_in_the_future_is_one_of_now() -> None:
    contents = Contents((file("a", 1, NOW + 900 * DAY_S),), (), 100, 100, 0)
    assert room.collect(contents, NOW) == ()


def test_a_disk_that_others_have_filled_costs_no_model() -> None:
    contents = Contents((file("a", 10, NOW),), (), 100, 0, 50)
    assert room.collect(contents, NOW) == ()


def test_a_quarter_of_what_would_be_free_without_the_cache() -> None:
    assert room.max_by_default(400, 0) == room.max_by_default(300, 100) == 100
    assert room.max_by_default(-5, 0) == 0
