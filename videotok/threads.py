"""CPU threads and memory of the models: no more threads than this process may run at once, in a container too."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux mounts its control groups, and the file that says which ones this process is in."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Options of glibc's `mallopt` (malloc.h)."""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables of the environment by which OpenMP's libraries are told how threads wait."""
LARGEST_KEPT = (1 << 30, 32 << 20)
"""Bytes of an allocation that are kept when it is freed; the second where the first is more than glibc accepts."""


def available_cores(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return how many cores this process may use: by its CPU affinity, and by the quotas of its container.

    The quotas are those of the control group of this process and of the groups around it, of both versions of Linux's
    cgroups: a container sees its own group as the root, a systemd service or a batch job lies deeper.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(folder) for folder in _control_groups(cgroup, membership))
    return max(1, math.ceil(min(cores, *quotas)))


def planned_threads(number: int | None = None) -> int:
    """Return how many threads the models may use: `number`; where None, OMP_NUM_THREADS or else `available_cores`."""
    variable = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return number or (int(variable) if variable.isdecimal() else available_cores())


def limit_threads(number: int | None = None) -> None:
    """Let torch and OpenCV use `number` threads; None: OMP_NUM_THREADS of them, or else as many as `available_cores`.

    Ids do not depend on it.
    """
    import cv2  # slow to import, as torch
    import torch

    if number is not None or not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(number or min(available_cores(), torch.get_num_threads()))
    cv2.setNumThreads(torch.get_num_threads())


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the environment says how they wait.

    By default those of torch's wheels spin. Beside other jobs a thread waits long for one that has no core: loading the
    models and decoding 20 seconds of video took 15.9 CPU seconds, 5 of them spinning; a page of tokens 12.2 instead of
    8.7. OpenMP reads this once, when torch is imported: call it before. For programs, like `keep_freed_memory`.
    """
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation; return whether it does. Linux's glibc alone.

    By default it returns every tensor of more than 32 MB to the system at once, which fills the next one with zeros,
    page by page: a sixth of the time that decoding takes. The most memory that is used at a time stays the same. All
    threads share what is kept. For programs, such as the command line; a library leaves this to its caller.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT)


def set_up_cpu(threads: int | None = None) -> None:
    """Set up this process for models on a CPU; see `limit_threads` and `keep_freed_memory`."""
    limit_threads(threads)
    keep_freed_memory()


def _control_groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the groups of this process that may limit its CPU, with all groups around them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    yield from (cgroup, cgroup / "cpu")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root, own = cgroup / ("cpu" if controllers else ""), Path(path.strip("/"))
        # without a namespace of its own a container reads the host's paths, which do not exist where it looks
        yield from (root / part for part in (own, *own.parents[:-1]) if (root / part).is_dir())


def _quota(folder: Path) -> float:
    """Return the cores that the quota of a control group allows; infinite where there is none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / name).read_text(encoding="ascii").strip() for name in names)
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return math.inf
    return cores if cores > 0 else math.inf
