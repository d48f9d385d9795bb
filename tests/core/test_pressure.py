"""What the system's own numbers mean, at and around each threshold."""

from __future__ import annotations

import pytest

from admitd.core.pressure import darwin_level, linux_level
from admitd.core.terms import Level

GIB = 1 << 30


@pytest.mark.parametrize(
    ("available", "stall", "level"),
    [
        pytest.param(50, 0.0, Level.NORMAL, id="half of memory free and no one stalled is normal"),
        pytest.param(50, None, Level.NORMAL, id="a kernel without PSI is judged by what is available"),
        pytest.param(11, 0.0, Level.NORMAL, id="11 % available is normal still"),
        pytest.param(10, 0.0, Level.WARN, id="10 % available warns"),
        pytest.param(6, None, Level.WARN, id="6 % available warns"),
        pytest.param(5, 0.0, Level.CRITICAL, id="5 % available is critical"),
        pytest.param(0, 0.0, Level.CRITICAL, id="nothing available is critical"),
        pytest.param(50, 9.99, Level.NORMAL, id="stalls below 10 % are normal"),
        pytest.param(50, 10.0, Level.WARN, id="stalls of 10 % warn, however much is available"),
        pytest.param(50, 39.9, Level.WARN, id="stalls below 40 % warn"),
        pytest.param(50, 40.0, Level.CRITICAL, id="stalls of 40 % are critical"),
        pytest.param(5, 12.0, Level.CRITICAL, id="the worse of the two counts"),
    ],
)
def test_the_level_on_linux(available: int, stall: float | None, level: Level) -> None:
    assert linux_level(available * GIB, 100 * GIB, stall)[0] is level


def test_the_sentence_names_both_numbers() -> None:
    why = "7% of memory available, tasks stalled 12.3 % of the last 10 s"
    assert linux_level(7 * GIB, 100 * GIB, 12.34) == (Level.WARN, why)


def test_a_machine_without_memory_is_in_trouble_and_not_an_error() -> None:
    assert linux_level(0, 0, None)[0] is Level.CRITICAL


@pytest.mark.parametrize(
    ("kernel", "level"),
    [
        pytest.param(1, Level.NORMAL, id="1 is normal"),
        pytest.param(2, Level.WARN, id="2 is warn"),
        pytest.param(4, Level.CRITICAL, id="4 is critical"),
        pytest.param(0, None, id="0 is not defined by XNU"),
        pytest.param(3, None, id="3 is not defined by XNU"),
        pytest.param(-1, None, id="-1 is not defined by XNU"),
    ],
)
def test_the_level_on_macos(kernel: int, level: Level | None) -> None:
    assert darwin_level(kernel, 30 * GIB, 100 * GIB) is level


@pytest.mark.parametrize(
    ("kernel", "available", "level"),
    [
        pytest.param(1, 6, Level.NORMAL, id="6 % available is normal still"),
        pytest.param(1, 5, Level.WARN, id="5 % available warns, though the kernel sees nothing: the rest may be wired"),
        pytest.param(0, 5, Level.WARN, id="it does so too where the kernel's value says nothing"),
        pytest.param(4, 5, Level.CRITICAL, id="the kernel's worse level counts"),
        pytest.param(1, 2, Level.CRITICAL, id="2 % available is critical"),
        pytest.param(3, 0, Level.CRITICAL, id="nothing available is critical"),
    ],
)
def test_wired_memory_shows_on_macos_in_what_is_available(kernel: int, available: int, level: Level) -> None:
    assert darwin_level(kernel, available * GIB, 100 * GIB) is level
