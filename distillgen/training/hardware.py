"""The hardware of a training, and the energy that it took, if the machine measures it."""

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
    """Return the processor, the cores, the memory and the GPUs."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


class Energy:
    """Joules that the processor packages (RAPL) and GPUs (NVML) take, other processes included.

    Read `joules` at least once a minute: the counters of RAPL wrap around after minutes to hours.
    """

    def __init__(self, rapl: Path = RAPL) -> None:
        counters = sorted(rapl.glob("intel-rapl:[0-9]*/energy_uj"))
        # names with two colons are parts of a package
        self._packages = [path for path in counters if path.parent.name.count(":") == 1]
        self._gpus = _gpu_counters()
        self._before = self._read()
        self._joules = 0.0

    @property
    def joules(self) -> float | None:
        """Return the joules since this object was created; None if no counter can be read."""
        now = self._read()
        for name, value in now.items():
            increase = value - self._before.get(name, value)
            if increase < 0:
                increase += int((Path(name).parent / "max_energy_range_uj").read_text()) / 1e6
            self._joules += increase
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
    except nvml.NVMLError:  # no driver, or a GPU without a counter
        return []
    return [
        lambda handle=handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles
    ]
