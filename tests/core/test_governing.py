"""Who goes for an app's own memory: enough, nobody in vain, nobody busy, and the eager ones last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from admitd.core.governing import Idle, Pressure, alarm, choose, interval_s, pressure_of, settled
from admitd.core.terms import Level

SIZES = st.integers(0, 50)
LEVELS = st.sampled_from([None, *Level])


@st.composite
def idles(draw: st.DrawFn) -> list[Idle]:
    found = draw(st.lists(st.tuples(SIZES, st.integers(0, 5), st.booleans(), st.booleans()), max_size=8))
    return [
        Idle(index, f"m{index}", size, used, eager=eager, busy=busy)
        for index, (size, used, eager, busy) in enumerate(found)
    ]


@given(idles(), st.integers(0, 200))
def test_those_who_go_are_enough_and_none_of_them_goes_in_vain(all_of_them: list[Idle], needed: int) -> None:
    chosen = choose(all_of_them, needed)
    may_go = [each for each in all_of_them if not each.busy]
    if chosen is None:
        assert sum(each.size for each in may_go) < needed
        return
    gone = sum(each.size for each in chosen)
    assert gone >= needed
    assert all(gone - each.size < needed for each in chosen)
    assert set(chosen) <= set(may_go)
    assert list(chosen) == sorted(chosen, key=lambda each: each.leaves_before)


@given(idles(), st.integers(1, 200))
def test_an_eager_one_goes_only_where_the_others_are_not_enough(all_of_them: list[Idle], needed: int) -> None:
    chosen = choose(all_of_them, needed)
    if chosen is not None and any(each.eager for each in chosen):
        assert sum(each.size for each in all_of_them if not each.busy and not each.eager) < needed


@given(idles(), st.integers(1, 50))
def test_of_equal_size_the_least_recently_used_go(all_of_them: list[Idle], size: int) -> None:
    alike = [Idle(each.index, each.name, size, each.last_used_s) for each in all_of_them]
    chosen = choose(alike, 2 * size) or ()
    assert list(chosen) == sorted(alike, key=lambda each: each.leaves_before)[: len(chosen)]


@given(st.integers(0, 1_200), st.integers(1, 1_000), LEVELS)
def test_pressure_never_falls_as_more_is_allocated_or_the_system_gets_worse(
    allocated: int, soft: int, level: Level | None
) -> None:
    now = pressure_of(allocated, 1_000, soft, level)
    assert now <= pressure_of(allocated + 1, 1_000, soft, level)
    assert now <= pressure_of(allocated, 1_000, soft, Level.CRITICAL) is Pressure.CRITICAL
    for before in Pressure:
        assert settled(before, allocated, 1_000, soft, level) >= now
        assert settled(now, allocated, 1_000, soft, level) is now


@given(st.integers(0, 999), st.integers(1, 1_000))
def test_the_alarm_rings_exactly_when_the_pressure_gets_worse(allocated: int, soft: int) -> None:
    now = pressure_of(allocated, 1_000, soft, None)
    worse = [more for more in range(allocated, 1_001) if pressure_of(more, 1_000, soft, None) > now]
    first = min(worse, default=1_001)
    assert now is Pressure.CRITICAL or 1_000 - first < alarm(now, 1_000, soft) <= 1_000 - first + 1


@given(st.floats(-1, 2), st.floats(0, 1))
def test_more_headroom_never_means_looking_more_often(share: float, more: float) -> None:
    assert interval_s(share) <= interval_s(share + more)
