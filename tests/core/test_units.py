"""Amounts and durations: what people write, what they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.core import units

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("40 GiB", 40 * GIB, id="a space before the unit is fine"),
        pytest.param("40GiB", 40 * GIB, id="and so is none"),
        pytest.param("40gb", 40 * GIB, id="GB means GiB, in any case of letters"),
        pytest.param("40g", 40 * GIB, id="one letter is enough"),
        pytest.param("45000MB", 45_000 << 20, id="MB means MiB, as in capacity.yaml"),
        pytest.param("512", 512, id="a bare number is bytes"),
        pytest.param("512B", 512, id="B is bytes"),
        pytest.param("4k", 4096, id="k is 1,024"),
        pytest.param("1.5 GiB", 3 * GIB // 2, id="a fraction of a unit"),
        pytest.param("2t", 2 << 40, id="a terabyte"),
        pytest.param(" 8 GiB ", 8 * GIB, id="spaces around it do not matter"),
        pytest.param("0", 0, id="nothing is an amount"),
    ],
)
def test_an_amount_is_read(text: str, expected: int) -> None:
    assert units.parse_amount(text) == expected


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        pytest.param(5 * GIB, "5GiB", id="whole gibibytes stay what they are"),
        pytest.param(5 * GIB + 1, "6GiB", id="and a byte more is one more"),
        pytest.param(GIB // 2 + 1, "1GiB", id="more than half of one is one"),
        pytest.param(GIB // 2, "512MiB", id="less is told in mebibytes"),
        pytest.param(1, "1MiB", id="a byte is no less than one of them"),
    ],
)
def test_an_amount_is_written_so_that_it_is_enough(amount: int, written: str) -> None:
    assert units.write_amount(amount) == written


@given(st.integers(1, 1 << 50))
def test_what_is_written_is_read_back_as_no_less(amount: int) -> None:
    assert amount <= units.parse_amount(units.write_amount(amount)) < 2 * amount + units.MIB


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing at all"),
        pytest.param("GiB", id="a unit without a number"),
        pytest.param("-4GiB", id="less than nothing"),
        pytest.param("4 bananas", id="a unit that does not exist"),
        pytest.param("4GiBs", id="a unit with a letter too many"),
        pytest.param("4xb", id="three letters that are no unit"),
        pytest.param("1e400", id="a power of ten"),
        pytest.param("nan", id="not a number"),
        pytest.param("1,000", id="a comma"),
        pytest.param("9" * 400, id="four hundred digits"),
        pytest.param("4GiB\n4GiB", id="two lines"),
    ],
)
def test_what_is_not_an_amount_is_refused_by_its_own_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory; write for example 40GiB"):
        units.parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "shown", "shown_free"),
    [
        pytest.param(45_000 << 20, 45_000, 45_000, id="whole megabytes stay what they are"),
        pytest.param((45_000 << 20) + 1, 45_001, 45_000, id="one byte more is a megabyte more to charge, none to give"),
        pytest.param((45_000 << 20) - 1, 45_000, 44_999, id="one byte less is still charged, no longer free"),
        pytest.param(0, 0, 0, id="nothing is nothing"),
        pytest.param(-1, 0, -1, id="over-committed by a byte shows as negative room"),
        pytest.param(-(7 << 20), -7, -7, id="negative stays negative"),
    ],
)
def test_a_charge_is_never_shown_too_small_and_room_never_too_large(amount: int, shown: int, shown_free: int) -> None:
    assert (units.to_mb(amount), units.free_to_mb(amount)) == (shown, shown_free)


@given(st.integers(min_value=0, max_value=1 << 31))
def test_megabytes_come_back_as_they_were(megabytes: int) -> None:
    assert units.to_mb(units.from_mb(megabytes)) == units.free_to_mb(units.from_mb(megabytes)) == megabytes


@given(need=st.integers(0, 1 << 45).map(lambda mb: mb << 20), free=st.integers(-(1 << 60), 1 << 60))
def test_the_numbers_of_a_refusal_add_up_as_shown(need: int, free: int) -> None:
    assert units.to_mb(need) - units.free_to_mb(free) == units.to_mb(need - free)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("90", 90.0, id="a bare number is seconds"),
        pytest.param("90s", 90.0, id="seconds"),
        pytest.param("10m", 600.0, id="minutes"),
        pytest.param("10 min", 600.0, id="minutes, written longer"),
        pytest.param("1.5h", 5_400.0, id="a fraction of an hour"),
        pytest.param("250ms", 0.25, id="milliseconds"),
        pytest.param("0", 0.0, id="no time at all"),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "1 day", "1e9", "inf", "nan", "10m 5s", "9" * 40])
def test_what_is_not_a_duration_is_refused_by_its_own_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write for example 90s, 10m or 1h"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(300.0, "5m"), (90.0, "90s"), (600.0, "10m"), (3_600.0, "1h"), (5_400.0, "90m"), (0.0, "0s"), (0.6, "1s")],
)
def test_a_duration_is_shown_in_its_shortest_spelling(seconds: float, shown: str) -> None:
    assert units.show_duration(seconds) == shown


@given(st.integers(0, 10**8))
def test_a_shown_duration_is_read_back(seconds: int) -> None:
    assert units.parse_duration(units.show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (20 << 30, "20.0 GiB"),
        (5 << 50, "5120.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_amounts_for_people(amount: int, shown: str) -> None:
    assert units.show_amount(amount) == shown
