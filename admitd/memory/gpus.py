"""gpus: what processes hold in the memory of NVIDIA GPUs, as the driver tells it (NVML).

The library comes with the extra `nvidia`; without it, or without a driver, there are no GPUs to ask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

# nvml.h: processes that compute, that draw, and that compute through the MPS server, are three lists. A process may
# be in more than one of them, each time with all that it holds.
_LISTS: Final = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)


class Gpus:
    """The GPUs of this machine. `nvml` is the module of nvidia-ml-py, or what a test puts in its place."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def held(self, pids: Collection[int]) -> Mapping[str, int]:
        """Bytes by GPU ("gpu0"), of those where any of these processes holds something; what a GPU does not tell is
        left out. NVML counts by the host's pids: from inside of a container nothing is found."""
        found: dict[str, int] = {}
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                held = self._on(self._nvml.nvmlDeviceGetHandleByIndex(index), pids)
                if held:
                    found[f"gpu{index}"] = held
        except self._nvml.NVMLError:  # a GPU fell off the bus, or the driver was replaced under us
            pass
        return found

    def _on(self, gpu: Any, pids: Collection[int]) -> int:
        by_pid: dict[int, int] = {}
        for name in _LISTS:
            for each in self._listed(name, gpu):
                if each.pid in pids and each.usedGpuMemory is not None:  # None: the driver does not say
                    by_pid[each.pid] = max(by_pid.get(each.pid, 0), each.usedGpuMemory)
        return sum(by_pid.values())

    def _listed(self, name: str, gpu: Any) -> Iterable[Any]:
        """One list; empty where this GPU or this version of the library has none."""
        with contextlib.suppress(self._nvml.NVMLError, AttributeError):
            listed: Iterable[Any] = getattr(self._nvml, name)(gpu)
            return listed
        return ()


def of_this_machine() -> Gpus | None:
    """None where there is no NVML, no driver or no GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Gpus(pynvml) if pynvml.nvmlDeviceGetCount() else None
    except pynvml.NVMLError:
        return None
