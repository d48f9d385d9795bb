"""What NVML says of processes, through a stand-in for its library: no GPU of NVIDIA was there to ask."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from admitd.core.terms import ProcessId
from admitd.core.units import MIB
from admitd.measuring import Measuring
from admitd.memory import gpus
from tests.cli.test_measure import FakeMemory, FakeTimes


def running(pid: int, held_mb: int | None) -> Any:
    """One entry of a list, as nvidia-ml-py makes it of nvmlProcessInfo_t; None where the driver does not tell."""
    return SimpleNamespace(pid=pid, usedGpuMemory=None if held_mb is None else held_mb * MIB)


class Nvml:
    """The calls that are used, with the errors of the real library. `cards`: by GPU, its lists by kind."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *cards: dict[str, list[Any]]) -> None:
        self.cards = cards
        self.lost: set[int] = set()

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def _listed(self, kind: str, gpu: int) -> list[Any]:
        if kind not in self.cards[gpu]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.cards[gpu][kind]

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:
        return self._listed("compute", gpu)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: int) -> list[Any]:
        return self._listed("graphics", gpu)


@pytest.mark.parametrize(
    ("cards", "held_mb"),
    [
        pytest.param([{"compute": []}], {}, id="an idle GPU"),
        pytest.param([{"compute": [running(1, 700), running(9, 50)]}], {"gpu0": 700}, id="another's is not counted"),
        pytest.param([{"compute": [running(1, 700), running(2, 5)]}], {"gpu0": 705}, id="two processes of one service"),
        pytest.param([{}, {"compute": [running(2, 8)]}], {"gpu1": 8}, id="a GPU that lists nothing is passed over"),
        pytest.param(
            [{"compute": [running(1, 700)], "graphics": [running(1, 700)]}], {"gpu0": 700}, id="in two lists, held once"
        ),
        pytest.param([{"compute": [running(1, None)]}], {}, id="what the driver does not tell"),
    ],
)
def test_what_processes_hold_by_gpu(cards: list[dict[str, list[Any]]], held_mb: dict[str, int]) -> None:
    assert gpus.Gpus(Nvml(*cards)).held({1, 2}) == {gpu: amount * MIB for gpu, amount in held_mb.items()}


def test_a_gpu_that_fell_off_the_bus_ends_the_look_and_nothing_else() -> None:
    nvml = Nvml({"compute": [running(1, 7)]}, {"compute": [running(1, 9)]})
    nvml.lost.add(1)
    assert gpus.Gpus(nvml).held({1}) == {"gpu0": 7 * MIB}


def test_a_measurement_keeps_the_peak_of_each_gpu() -> None:
    memory, times = FakeMemory(), FakeTimes()
    memory.held, times.told, server = MIB, {ProcessId(10, 1): 1.0}, running(10, 500)
    watching = Measuring(lambda: [ProcessId(10, 1)], memory, times, gpus.Gpus(Nvml({"compute": [server]})))
    for now, held_mb in ((0.0, 500), (0.25, 900), (0.5, 100)):
        server.usedGpuMemory = held_mb * MIB
        watching.look(now)
    assert watching.seen.gpu_peaks == {"gpu0": 900 * MIB}
    assert watching.seen.most == MIB, "which is no RAM"


def test_without_the_extra_there_are_no_gpus_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.of_this_machine() is None


def test_without_a_driver_there_are_none() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert gpus.of_this_machine() is None
    else:
        pytest.skip("this machine has a driver")
