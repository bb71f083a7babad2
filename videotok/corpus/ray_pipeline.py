"""The pipeline on Ray Data, the only module that knows Ray.

    videos ──► ReadVideos ──────────► TokenizeClips ──────► this process
               actors, CPU, many      actors, CPU or GPU
               a child each, decodes  weights loaded once

Ray Data moves the blocks, holds a stage back when the next one is slow, starts dead workers anew and runs their tasks
again. What it gives back in the end is complete, but in no certain order.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from videotok.corpus.settings import Plan
from videotok.corpus.tokenize import ReadVideos, TokenizeClips
from videotok.errors import CorpusError

BLOCK_BYTES = 8 << 20
"""About 24 clips: the piece in which clips travel."""
STORE_BYTES, STORE_BYTES_A_WORKER = 256 << 20, 128 << 20
"""Shared memory of a local Ray."""
TASKS_A_WORKER = 32
"""Videos are dealt out in so many portions a worker, so that all end at about the same time ..."""
MOST_VIDEOS_A_TASK = 64
"""... but in no more than this at once, of which each is done again when its worker dies."""


@dataclass(frozen=True)
class Cluster:
    """Where to run."""

    address: str | None = None
    """Of a running Ray cluster, `auto` for the one of this machine; None: a Ray of our own, here."""
    workers: int | None = None
    """Readers, and tokenizers on a CPU; as many as there are cores where not given."""
    gpus_per_worker: float = 0.0
    """0: tokenizers on the CPU. Else as many tokenizers as the cluster's GPUs allow; may be a fraction."""
    batch_size: int = 16
    """Clips that go through the models at once; does not change the ids."""


def stream(videos: pa.Table, plan: Plan, cluster: Cluster) -> Iterator[pa.Table]:
    """Encodes videos; gives rows of `schema.STREAM`, in any order.

    Args:
        videos: columns index (int64), path, start, duration (seconds, null where not given).
        plan: how.
        cluster: where.

    Raises:
        CorpusError: Ray is not installed or cannot be reached, has fewer cores or GPUs than asked for, or gave up.
    """
    ray = _ray()
    with _started(ray, cluster) as (readers, tokenizers):
        yield from _run(ray, videos, plan, cluster, readers, tokenizers)


def _run(ray, videos: pa.Table, plan: Plan, cluster: Cluster, readers: int, tokenizers: int) -> Iterator[pa.Table]:
    on_gpu = cluster.gpus_per_worker > 0
    portion = int(np.clip(videos.num_rows // (readers * TASKS_A_WORKER), 1, MOST_VIDEOS_A_TASK))
    _quiet(ray)
    blocks = [videos.slice(first, portion).combine_chunks() for first in range(0, videos.num_rows, portion)]
    clips = (
        ray.data.from_arrow(blocks)
        .map_batches(
            ReadVideos,
            fn_constructor_args=(plan,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=readers),
            # on a CPU readers and tokenizers share the cores: whichever stage is behind gets them
            num_cpus=1 if on_gpu else 0.5,
        )
        .map_batches(
            TokenizeClips,
            fn_constructor_args=(plan,),
            batch_size=cluster.batch_size,
            compute=ray.data.ActorPoolStrategy(size=tokenizers),
            num_cpus=0 if on_gpu else 0.5,
            num_gpus=cluster.gpus_per_worker if on_gpu else None,
        )
    )
    try:
        yield from clips.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CorpusError(f"Ray gave up ({reason}); what was written is safe, the same command goes on") from error


def _ray():
    """Ray without its messages: there is one progress display, and it is ours."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray's workers would be as nice as 15, and starve beside anything else on the machine
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise CorpusError(f"videotok corpus encode needs Ray Data ({error}): pip install 'videotok[corpus]'") from error
    return ray


@contextmanager
def _started(ray, cluster: Cluster) -> Iterator[tuple[int, int]]:
    """Ray, running; how many readers and tokenizers there is room for."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _mute():
            if cluster.address is None:
                workers = cluster.workers or os.cpu_count() or 1
                store = STORE_BYTES + workers * STORE_BYTES_A_WORKER
                ray.init(num_cpus=workers, object_store_memory=store, include_dashboard=False, **quiet)
            else:
                ray.init(address=cluster.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = (
            "; a cluster with authentication needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            if cluster.address
            else ""
        )
        raise CorpusError(
            f"cannot start or reach Ray at {cluster.address or 'this machine'}: {reason}{hint}"
        ) from error
    try:
        yield _workers(ray.cluster_resources(), cluster)
    finally:
        ray.shutdown()


@contextmanager
def _mute() -> Iterator[None]:
    """Nothing on stderr meanwhile: Ray's C++ side announces there that it will be quiet."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _workers(there: dict[str, float], cluster: Cluster) -> tuple[int, int]:
    cores, gpus = int(there.get("CPU", 0)), there.get("GPU", 0.0)
    readers = cluster.workers or cores
    if readers > cores:
        raise CorpusError(f"--workers {readers}: the cluster has {cores} cores; ask for no more, or add nodes")
    if not cluster.gpus_per_worker:
        return readers, readers
    tokenizers = int(gpus / cluster.gpus_per_worker)
    if not tokenizers:
        raise CorpusError(f"--gpus-per-worker {cluster.gpus_per_worker:g}: the cluster has {gpus:g} GPUs")
    return readers, tokenizers


def _quiet(ray) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.ERROR)
