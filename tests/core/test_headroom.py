"""Memory is added up in one place, resource by resource, and an over-commitment stays visible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.core import headroom
from admitd.core.terms import Amounts, Host
from tests.core.worlds import MANOIR, POOL_MB, ram

AMOUNTS = st.dictionaries(st.sampled_from(["ram", "vram0", "vram1"]), st.integers(-(1 << 50), 1 << 50))
NATURAL = st.dictionaries(st.sampled_from(["ram", "vram0", "vram1"]), st.integers(0, 1 << 50))


def test_the_pool_of_the_contract_is_what_is_left_of_the_machine() -> None:
    assert headroom.pool(MANOIR.host) == ram(POOL_MB)
    assert headroom.pool(Host("manoir", ram(65_536), ram(12_288), ram(4_096))) == ram(49_152)


def test_a_host_that_reserves_more_than_it_has_shows_a_negative_pool() -> None:
    assert headroom.pool(Host("tiny", ram(8_192), ram(12_288), ram(4_096))) == ram(-8_192)


@pytest.mark.parametrize(
    ("need", "free", "short"),
    [
        pytest.param(ram(10), ram(10), {}, id="what is just enough fits"),
        pytest.param(ram(11), ram(10), ram(1), id="one megabyte too much is one megabyte short"),
        pytest.param(ram(1), ram(-10), ram(11), id="an over-commitment is part of what is missing"),
        pytest.param(ram(1), {}, ram(1), id="a resource that is not there is zero"),
        pytest.param({"ram": 1}, {"ram": 9, "vram0": -5}, {}, id="what is not needed may be over-committed"),
        pytest.param({"ram": 1, "vram0": 0}, {"ram": 9, "vram0": -5}, {}, id="and a need of nothing is no need"),
        pytest.param(ram(5, vram0=5), ram(9, vram0=4), {"vram0": 1 << 20}, id="only what is short is named"),
        pytest.param({}, ram(-1), {}, id="nothing always fits"),
    ],
)
def test_what_is_missing(need: Amounts, free: Amounts, short: Amounts) -> None:
    assert headroom.missing(need, free) == short
    assert headroom.fits(need, free) is (not short)


@pytest.mark.parametrize(
    ("promised", "measured", "left"),
    [
        pytest.param(ram(10), ram(0), ram(10), id="a load that has not begun needs all of its promise"),
        pytest.param(ram(10), ram(4), ram(6), id="what is in use is part of the measured memory already"),
        pytest.param(ram(10), ram(12), ram(0), id="who holds more than was promised needs no more"),
        pytest.param(ram(10), {}, ram(10), id="an unmeasured resource is not in use"),
        pytest.param({"ram": -5}, {}, {"ram": 0}, id="a promise is never less than nothing"),
    ],
)
def test_the_unused_part_of_a_promise(promised: Amounts, measured: Amounts, left: Amounts) -> None:
    assert headroom.unused(promised, measured) == left


def test_what_the_system_could_give_is_less_the_promises_and_the_floor() -> None:
    assert headroom.still_available(ram(20_000), [ram(5_000), ram(1_000)], ram(4_096)) == ram(9_904)
    assert headroom.still_available(ram(1_000), [], ram(4_096)) == ram(-3_096)


@given(AMOUNTS, AMOUNTS)
def test_what_is_taken_and_given_back_leaves_what_there_was(whole: Amounts, part: Amounts) -> None:
    back = headroom.total([headroom.less(whole, part), part])
    assert all(back[resource] == whole.get(resource, 0) for resource in back)


@given(st.lists(AMOUNTS), st.randoms(use_true_random=False))
def test_a_sum_does_not_depend_on_the_order(amounts: list[Amounts], random: object) -> None:
    mixed = list(amounts)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert headroom.total(amounts) == headroom.total(mixed)


@given(NATURAL, AMOUNTS)
def test_it_fits_once_what_is_missing_is_given(need: Amounts, free: Amounts) -> None:
    short = headroom.missing(need, free)
    assert all(amount > 0 for amount in short.values())
    assert headroom.fits(need, headroom.total([free, short]))
    assert headroom.fits(need, free) is (not short)


@given(AMOUNTS, AMOUNTS)
def test_the_larger_covers_both(one: Amounts, other: Amounts) -> None:
    larger = headroom.larger(one, other)
    for resource in larger:
        assert larger[resource] in (one.get(resource, 0), other.get(resource, 0))
        assert larger[resource] >= one.get(resource, larger[resource])
        assert larger[resource] >= other.get(resource, larger[resource])
