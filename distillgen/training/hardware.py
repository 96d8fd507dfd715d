"""What a training ran on, and what energy it took, as far as the machine tells."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from distillgen.platforms import cores

RAPL = Path("/sys/class/powercap")


def described() -> dict[str, Any]:
    """Processor, cores, memory and GPUs."""
    import torch

    told = Path("/proc/cpuinfo").read_text(errors="replace") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


class Energy:
    """Joules since it was made, of whole processor packages (RAPL) and GPUs (NVML), other processes' share included.

    The counters of RAPL wrap around after minutes to hours: look at it at least once a minute.
    """

    def __init__(self, rapl: Path = RAPL) -> None:
        self._packages = sorted(rapl.glob("intel-rapl:[0-9]*/energy_uj"))
        self._packages = [
            path for path in self._packages if path.parent.name.count(":") == 1
        ]  # the rest are parts of these
        self._gpus = _gpu_counters()
        self._before = self._read()
        self._joules = 0.0

    @property
    def joules(self) -> float | None:
        """None where nothing can be read."""
        now = self._read()
        for name, value in now.items():
            spent = value - self._before.get(name, value)
            if spent < 0:
                spent += int((Path(name).parent / "max_energy_range_uj").read_text()) / 1e6
            self._joules += spent
        self._before = now
        return round(self._joules, 1) if now else None

    def _read(self) -> dict[str, float]:
        counters: dict[str, float] = {}
        for path in self._packages:
            try:
                counters[str(path)] = int(path.read_text()) / 1e6
            except PermissionError:  # many kernels let only root read it
                continue
        return counters | {f"gpu {i}": read() for i, read in enumerate(self._gpus)}


def _gpu_counters() -> list[Any]:
    if importlib.util.find_spec("pynvml") is None:
        return []
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # no driver, or a GPU that does not count
        return []
    return [
        lambda handle=handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles
    ]
