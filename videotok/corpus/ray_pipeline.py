"""The pipeline on Ray Data; the only module that imports Ray.

    videos ──► ReadVideos ───────────────────► TokenizeClips ──────► this process
               actors on CPUs,                 actors on CPU or GPU,
               each decodes in a child process weights loaded once

Ray Data moves the blocks, slows a stage down when the next one is slower, restarts workers that died and repeats their
tasks. All rows come back in the end, in no particular order.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from videotok.corpus import CLIPS_PER_BATCH
from videotok.corpus.settings import EncodePlan
from videotok.corpus.tokenize import ReadVideos, TokenizeClips
from videotok.errors import CorpusError, first_line
from videotok.threads import available_cores

BLOCK_BYTES = 8 << 20
"""Size of the blocks in which clips are moved; about 24 clips."""
STORE_BYTES, STORE_BYTES_PER_WORKER = 256 << 20, 128 << 20
"""Shared memory of a local Ray."""
TASKS_PER_WORKER = 32
"""Videos are divided into so many tasks for each worker, so that all workers end at about the same time ..."""
MAX_VIDEOS_PER_TASK = 64
"""... but a task has no more videos than this, all of which are read again when its worker dies."""


@dataclass(frozen=True)
class Cluster:
    """Where a corpus is encoded."""

    address: str | None = None
    """Address of a running Ray cluster, `auto` for the one on this machine. None: start Ray on this machine."""
    workers: int | None = None
    """Number of readers, and of tokenizers if these run on the CPU. None: as many as the cores allow."""
    gpus_per_worker: float = 0.0
    """GPUs of each tokenizer, may be a fraction; there are as many tokenizers as the cluster's GPUs allow. 0:
    tokenizers run on the CPU."""
    device: str = "auto"
    """Where the models of a tokenizer run: `auto` is a GPU where Ray gives it one. Ids are the same on all."""
    threads: int = 1
    """CPU threads of the models of a tokenizer."""


def encode_on_ray(videos: pa.Table, plan: EncodePlan, cluster: Cluster) -> Iterator[pa.Table]:
    """Encode videos and yield rows with the columns of `schema.ENCODED_ROWS`, in any order.

    Args:
        videos: columns index (int64), path, start, duration (seconds, null where not given).
        plan: how to encode.
        cluster: where to run.

    Raises:
        CorpusError: Ray is not installed or cannot be reached, has fewer cores or GPUs than asked for, or gave up.
    """
    ray = _import_ray()
    with _start_ray(ray, cluster):
        workers = _count_workers(ray.cluster_resources(), cluster)
        yield from _run(ray, videos, plan, cluster, workers)


@dataclass(frozen=True)
class _Workers:
    readers: int
    tokenizers: int


def _run(ray, videos: pa.Table, plan: EncodePlan, cluster: Cluster, workers: _Workers) -> Iterator[pa.Table]:
    on_gpu = cluster.gpus_per_worker > 0
    per_task = int(np.clip(videos.num_rows // (workers.readers * TASKS_PER_WORKER), 1, MAX_VIDEOS_PER_TASK))
    _silence_ray_data(ray)
    blocks = [videos.slice(first, per_task).combine_chunks() for first in range(0, videos.num_rows, per_task)]
    clips = (
        ray.data.from_arrow(blocks)
        .map_batches(
            ReadVideos,
            fn_constructor_args=(plan,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=workers.readers),
            # on a CPU, readers and tokenizers share the cores: whichever stage is behind gets them
            num_cpus=1 if on_gpu else 0.5,
        )
        .map_batches(
            TokenizeClips,
            fn_constructor_args=(plan, cluster.device, cluster.threads),
            batch_size=plan.config.batch_size or CLIPS_PER_BATCH,  # None would be whole blocks to Ray
            compute=ray.data.ActorPoolStrategy(size=workers.tokenizers),
            num_cpus=0 if on_gpu else cluster.threads - 0.5,
            num_gpus=cluster.gpus_per_worker if on_gpu else None,
        )
    )
    try:
        yield from clips.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CorpusError(f"Ray gave up ({reason}); what was written is safe, the same command continues") from error


def _import_ray():
    """Import Ray, set to print nothing: the command shows the only progress display.

    Raises:
        CorpusError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # by default Ray's workers run with niceness 15, and get no time beside other programs
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
def _start_ray(ray, cluster: Cluster) -> Iterator[None]:
    """Start Ray, or connect to a cluster; shut it down, or disconnect, afterwards.

    Raises:
        CorpusError: it does not start, or cannot be reached.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _stderr_silenced():
            if cluster.address is None:
                workers = cluster.workers or max(1, available_cores() // cluster.threads)
                store = STORE_BYTES + workers * STORE_BYTES_PER_WORKER
                local = {"num_cpus": workers * cluster.threads, "object_store_memory": store}
                # without an address Ray would join a cluster that runs here, or that RAY_ADDRESS names
                ray.init(address="local", **local, include_dashboard=False, **quiet)
            else:
                ray.init(address=cluster.address, **quiet)
    except Exception as error:  # Ray raises plain exceptions too, such as where a busy machine starts it too slowly
        hint = "; a cluster with authentication needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        raise CorpusError(
            f"cannot start or reach Ray at {cluster.address or 'this machine'}: {first_line(error)}"
            f"{hint if cluster.address else ''}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discard what is written to stderr: Ray's C++ code prints there that it will print nothing."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _count_workers(resources: Mapping[str, float], cluster: Cluster) -> _Workers:
    """Return how many workers of each stage fit on a cluster.

    Raises:
        CorpusError: it has fewer cores or GPUs than asked for.
    """
    cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    readers = cluster.workers or max(1, cores // cluster.threads)
    if readers * cluster.threads > cores:
        threads = f" of {cluster.threads} threads" if cluster.threads > 1 else ""
        raise CorpusError(f"{readers} workers{threads}: the cluster has {cores} cores; ask for no more, or add nodes")
    if not cluster.gpus_per_worker:
        return _Workers(readers, readers)
    tokenizers = int(gpus / cluster.gpus_per_worker)
    if not tokenizers:
        raise CorpusError(f"{cluster.gpus_per_worker:g} GPUs per worker: the cluster has {gpus:g} GPUs")
    return _Workers(readers, tokenizers)


def _silence_ray_data(ray) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.ERROR)
