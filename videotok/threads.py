"""How many CPU threads the models use: no more than this process may run at once, in a container too."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may use: by its CPU affinity, and by the quota of its container (cgroup)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup))))


def limit_threads(number: int | None = None) -> None:
    """Let torch use `number` threads; None: as many as `available_cores`, unless OMP_NUM_THREADS says it already.

    Ids do not depend on it.
    """
    import torch  # slow to import

    if number is None and os.environ.get("OMP_NUM_THREADS"):
        return
    torch.set_num_threads(number or min(available_cores(), torch.get_num_threads()))


def _quota(cgroup: Path) -> float:
    """Return the cores that the container's quota allows; infinite where there is none. Both versions of cgroups."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / "cpu" / name).read_text(encoding="ascii").strip() for name in names)
        cores = float(quota) / float(period)
    except (OSError, ValueError):  # "max" is no number
        return math.inf
    return cores if cores > 0 else math.inf
