"""Clips one after another: each is rebuilt between its own keyframe and the next one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from threading import Barrier
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from codec.errors import is_out_of_memory

if TYPE_CHECKING:
    from unet3d.detokenizer import VideoDetokenizer
    from unet3d.latent_detokenizer import LatentVideoDetokenizer

Item = TypeVar("Item")


def decode_chain(
    model: "VideoDetokenizer | LatentVideoDetokenizer",
    clips: "Iterable[ClipInput | tuple[Tensor, Tensor]]",
    *,
    bidirectional: bool = True,
    noise_rate: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
    refine: bool = True,
    batch_size: int = 1,
    num_workers: int = 1,
) -> Iterator[Tensor]:
    """Yield the frames [B, T, 3, H, W] in [-1, 1] of each clip.

    Memory is constant: `batch_size` clips for each worker are read ahead, and the last frame before them is kept.

    Args:
        clips: one after another; T may differ.
        bidirectional: use the next clip's keyframe as well; the last clip has none and is rebuilt forward only.
        noise_rate: below 1, denoising of every clip but the first starts from the last frame before it, taken back to
            noise so far: the explicit noise constraint of Video-LaVIT (arXiv 2402.03161), which has 0.85.
        num_inference_steps: evaluations of the network for each clip.
        seed: of the noise; each clip has its own noise, which depends on the seed and the clip's index alone.
        refine: False for keyframes that were not decoded from tokens, see `VideoDetokenizer.reconstruct`.
        batch_size: clips that are rebuilt at once, which a GPU does faster; of a `VideoDetokenizer` only. With a
            `noise_rate` below 1 each clip waits for the one before. Frames stay the same but for rounding. Where memory
            does not suffice, fewer clips are rebuilt at once.
        num_workers: batches that are rebuilt at the same time, each in a thread of its own with its share of torch's
            threads: on a CPU the cores then wait less for each other than within one batch. Also not with a
            `noise_rate` below 1. Where the caller stops early, what is being rebuilt is finished first.
    """
    is_chained = noise_rate < 1

    def rebuild(batch: "list[_Clip]", previous_frame: Tensor | None = None) -> Tensor:
        keyframe, vectors = torch.cat([one.keyframe for one in batch]), torch.cat([one.vectors for one in batch])
        following = [one.following for one in batch if one.following is not None]
        next_keyframe, next_vectors = map(torch.cat, zip(*following, strict=True)) if following else (None, None)
        generators = [torch.Generator().manual_seed((seed * 1_000_003 + one.index) % 2**63) for one in batch]
        return model.reconstruct(
            keyframe,
            vectors,
            next_keyframe=next_keyframe,
            next_vectors=next_vectors,
            previous_frame=previous_frame,
            noise_rate=noise_rate,
            num_inference_steps=num_inference_steps,
            generator=generators if len(batch) > 1 else generators[0],  # type: ignore[arg-type]
            refine=refine,
            **({} if batch[0].num_frames is None else {"num_frames": batch[0].num_frames}),
        )

    batches = _batches(clips, bidirectional, 1 if is_chained else batch_size)
    if num_workers > 1 and not is_chained:
        with _worker_threads(num_workers) as pool:
            read = with_at_most_threads(batches, share_of_threads(num_workers))
            yield from chain.from_iterable(_map_ahead(pool, rebuild, read, num_workers))
        return
    previous_frame = None
    for batch in batches:
        frames = _rebuild_in_parts(rebuild, batch) if len(batch) > 1 else rebuild(batch, previous_frame)
        yield from frames.split(len(batch[0].keyframe))
        previous_frame = frames[:, -1] if is_chained else None


class ClipInput(NamedTuple):
    """What a clip is rebuilt from."""

    keyframe: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """[B, T, h, w, 2]."""
    num_frames: int | None = None
    """Frames to rebuild, the first ones; None: all T. Of a `VideoDetokenizer` only."""


@dataclass(frozen=True)
class _Clip:
    """A clip to rebuild."""

    index: int
    keyframe: Tensor
    vectors: Tensor
    num_frames: int | None
    following: tuple[Tensor, Tensor] | None
    """Keyframe and first step of motion of the next clip, where it is used."""

    def goes_with(self, other: "_Clip") -> bool:
        """Whether both can be rebuilt in one batch."""
        return (
            self.keyframe.shape == other.keyframe.shape
            and self.vectors.shape == other.vectors.shape
            and self.num_frames == other.num_frames
            and (self.following is None) == (other.following is None)
        )


def _batches(
    clips: Iterable[ClipInput | tuple[Tensor, Tensor]], bidirectional: bool, size: int
) -> Iterator[list[_Clip]]:
    """Yield clips in order, up to `size` at once."""
    batch: list[_Clip] = []
    for index, (clip, next_clip) in enumerate(pairwise(chain(clips, [None]))):
        assert clip is not None  # only the last of all is
        following = (next_clip[0], next_clip[1][:, :1]) if bidirectional and next_clip is not None else None
        clip = clip if isinstance(clip, ClipInput) else ClipInput(*clip)
        found = _Clip(index, *clip, following)
        if batch and (len(batch) == size or not batch[0].goes_with(found)):
            yield batch
            batch = []
        batch.append(found)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _rebuild_in_parts(rebuild: "Callable[[list[_Clip]], Tensor]", batch: "list[_Clip]") -> Tensor:
    """Return the frames of a batch; where memory does not suffice, its halves one after another."""
    try:
        return rebuild(batch)
    except (MemoryError, RuntimeError) as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    # not in the handler: the error's traceback would keep the tensors of the first try
    half = len(batch) // 2
    return torch.cat([_rebuild_in_parts(rebuild, part) for part in (batch[:half], batch[half:])])


@contextmanager
def _worker_threads(count: int) -> Iterator[Executor]:
    """Give `count` threads, each of which computes with its share of torch's threads."""
    total = torch.get_num_threads()
    are_ready = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(max(1, total // count))
        are_ready.wait()

    with ThreadPoolExecutor(count, "rebuild", initializer=begin) as pool:
        for _ in range(count):  # each starts a thread, since those before wait
            pool.submit(int)
        are_ready.wait()
        # what a thread sets for itself would also hold for all that begin later
        torch.set_num_threads(total)
        yield pool


def _map_ahead(
    pool: Executor, rebuild: "Callable[[list[_Clip]], Tensor]", batches: "Iterable[list[_Clip]]", ahead: int
) -> Iterator[Sequence[Tensor]]:
    """Yield the frames of each clip of each batch, in order, while the pool rebuilds up to `ahead` batches after it."""
    pending: deque[tuple[int, Future[Tensor]]] = deque()
    try:
        for batch in batches:
            pending.append((len(batch[0].keyframe), pool.submit(rebuild, batch)))
            if len(pending) > ahead:
                size, frames = pending.popleft()
                yield frames.result().split(size)
        while pending:
            size, frames = pending.popleft()
            yield frames.result().split(size)
    finally:
        for _, frames in pending:
            frames.cancel()


def share_of_threads(count: int) -> int:
    """Return 1 / count of torch's threads, at least one."""
    return max(1, torch.get_num_threads() // count)


@contextmanager
def at_most_threads(number: int) -> Iterator[None]:
    """Inside, this thread computes with so many of torch's threads at most.

    Where other cores are busy, each operation that is shared with them waits for them, and waiting spins: of 16 CPU
    seconds that decoding of 20 seconds took beside other jobs, 5 were such waiting.
    """
    total = torch.get_num_threads()
    torch.set_num_threads(min(total, number))
    try:
        yield
    finally:
        torch.set_num_threads(total)


def with_at_most_threads(items: Iterator[Item], number: int) -> Iterator[Item]:
    """Yield items, each made with `at_most_threads`."""
    while True:
        with at_most_threads(number):
            item = next(items, None)
        if item is None:
            return
        yield item
