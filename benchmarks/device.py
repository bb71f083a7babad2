"""Speed and exactness of the models on a device: `python -m benchmarks.device VIDEOS… --device cuda --json OUT`.

With the shipped weights, in float32 and (decoding and training) bfloat16, on the keyframes and motion of the videos:

    ids          videos encoded on the device, and on the CPU in float64 alone: are all ids and masks equal?
    keyframes    encoded and decoded a second, in batches
    motion       clips encoded and decoded a second, one at a time and in batches
    frames       clips of 24 frames rebuilt a second, one at a time and in batches
    training     pictures a second of the keyframe tokenizer
    rounding     errors of float32 beside float64 over `--codes` codes (docs/adr/0005-float32-certificate.md): of what a
                 patch saves, of the encoder's vectors, of decoded pictures; how many times that their bounds are; how
                 many pictures were encoded again in float64; and whether ids are those of float64
    decisions    keyframes whose patches were compared again in float64, since float32 left it open

Rows of the JSON: {"what", …figures}; the first one says which device. A second is one of CPU time (of all threads) on a
CPU, else one on the wall. A GPU takes less than five minutes; `--quick`
is for a CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from benchmarks.rounding import CODES_PER_PICTURE, counted_decisions, decisions, photograph_files, pictures, rounding
from codec import Clip, MotionField, iter_clips
from videotok.config import EncodeConfig
from videotok.image_utils import resize, to_square_tensor, to_tensor
from videotok.io_utils import write_json
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.train import KeyframeTraining
from videotok.pipeline import VideoTokenizer
from videotok.training.trainer import Plan, train

FRAME_SIZE = (256, 144)
IDS = ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids")

Row = dict[str, Any]


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    videos: int
    """Videos whose ids are compared."""
    seconds: float
    """Time of each speed."""
    batches: tuple[int, ...]
    """Clips at once."""
    keyframe_batch: int
    rounding_batch: int
    training_batch: int
    training_steps: int
    codes: int
    """Codes whose rounding is measured."""
    decisions: int
    """Keyframes whose decisions are counted."""


FULL = Amount(8, 2.0, (1, 16), 64, 8, 128, 30, 100_000, 200)
QUICK = Amount(1, 0.5, (1, 4), 8, 4, 8, 3, 1000, 8)
SPEEDS = ("keyframes", "motion", "frames", "training")
PARTS = ("ids", "rounding", "decisions", *SPEEDS)


@dataclass(frozen=True)
class Footage:
    """What the models are measured on: all clips of the videos, up to a number."""

    videos: list[Path]
    clips: list[Clip]

    @classmethod
    def read(cls, videos: list[Path], clips_per_video: int) -> "Footage":
        """Read the first clips of each video."""
        found = [clip for video in videos for clip in iter_clips(video, max_clips=clips_per_video)]
        return cls(videos, found)

    def images(self, size: int) -> Tensor:
        """Return the keyframes, float32 [n, 3, size, size] in [-1, 1]."""
        return torch.cat([to_square_tensor(clip.keyframe, size) for clip in self.clips])

    def fields(self) -> list[MotionField]:
        """Return the motion of the clips."""
        return [clip.motion for clip in self.clips]


def repeated(values: Sequence[Any], count: int) -> list[Any]:
    """Return `count` values, from the beginning again where there are fewer."""
    return [values[index % len(values)] for index in range(count)]


def rate(work: Callable[[], object], items: int, seconds: float, device: torch.device) -> float:
    """Return how many items a second `work`, which does `items` of them, gets through after a first call."""
    clock = _clock(device)
    work()
    _wait(device)
    start, calls = clock(), 0
    while calls == 0 or clock() - start < seconds:
        work()
        _wait(device)
        calls += 1
    return calls * items / (clock() - start)


def _clock(device: torch.device) -> Callable[[], float]:
    """Return what tells the time: on a CPU of its own work, so that other programs beside do not count."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def compare_ids(tokenizer: VideoTokenizer, videos: list[Path], clips: int) -> Row:
    """Encode videos on the device in batches, and on the CPU one clip at a time, on one thread and in float64 alone.

    All ids and masks should be equal.
    """
    different, keyframes = [], 0
    reference = VideoTokenizer(tokenizer.bundle)
    with counted_decisions() as counts:
        found = [tokenizer.encode(video, EncodeConfig(max_clips=clips)) for video in videos]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with mock.patch.object(KeyframeTokenizer, "encoding_dtype", torch.float64):
        for video, tokens in zip(videos, found, strict=True):
            wanted = reference.encode(video, EncodeConfig(max_clips=clips, batch_size=1))
            keyframes += tokens.num_clips
            if any(not np.array_equal(getattr(tokens, name), getattr(wanted, name)) for name in IDS):
                different.append(video.name)
    torch.set_num_threads(threads)
    counted = {"videos": len(videos), "keyframes": keyframes, **asdict(counts)}
    return {"what": "ids", **counted, "different": different}


def keyframe_speed(tokenizer: VideoTokenizer, images: Tensor, amount: Amount) -> Row:
    """Measure keyframes encoded and decoded a second."""
    device, size = tokenizer.device, amount.keyframe_batch
    batch = images[torch.arange(size) % len(images)].to(device)
    with tokenizer.encoding():
        model = tokenizer.keyframes
        tokens = model.encode(batch)
        encoded = rate(lambda: model.encode(batch), size, amount.seconds, device)
    with tokenizer.decoding():
        model = tokenizer.keyframes
        decoded = rate(lambda: model.decode(tokens.ids, tokens.keep_mask), size, amount.seconds, device)
    return {"what": "keyframes", "batch": size, "encoded_per_second": encoded, "decoded_per_second": decoded}


def motion_speed(tokenizer: VideoTokenizer, fields: list[MotionField], batch: int, seconds: float) -> Row:
    """Measure clips whose motion is encoded and decoded a second."""
    chosen = repeated(fields, batch)
    tokens = tokenizer.encode_motion(chosen)
    with tokenizer.encoding():
        encoded = rate(lambda: tokenizer.encode_motion(chosen), batch, seconds, tokenizer.device)
    with tokenizer.decoding():
        decoded = rate(lambda: tokenizer.decode_motion(tokens), batch, seconds, tokenizer.device)
    return {"what": "motion", "batch": batch, "encoded_per_second": encoded, "decoded_per_second": decoded}


def frame_speed(tokenizer: VideoTokenizer, clips: list[Clip], batch: int, seconds: float) -> Row:
    """Measure clips of frames rebuilt a second, each between two keyframes."""
    pairs = [(clips[index % len(clips)], clips[(index + 1) % len(clips)]) for index in range(batch)]
    fields = [[one.motion for one in side] for side in zip(*pairs, strict=True)]
    vectors, next_vectors = (tokenizer.decode_motion(tokenizer.encode_motion(side)) for side in fields)
    pictures, next_pictures = (
        torch.cat([to_tensor(resize(one.keyframe, FRAME_SIZE)) for one in side]).to(vectors)
        for side in zip(*pairs, strict=True)
    )
    model = tokenizer.detokenizer
    rebuilt = rate(
        lambda: model.reconstruct(pictures, vectors, next_keyframe=next_pictures, next_vectors=next_vectors),
        batch,
        seconds,
        tokenizer.device,
    )
    return {"what": "frames", "batch": batch, "dtype": _name(tokenizer.dtype), "rebuilt_per_second": rebuilt}


class _SameBatch:
    """The same batch at every step."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self._batch = batch

    def from_step(
        self, step: int, workers: int, process: int = 0, num_processes: int = 1
    ) -> Iterator[dict[str, Tensor]]:
        del step, workers, process, num_processes
        while True:
            yield self._batch


def training_speed(tokenizer: VideoTokenizer, images: Tensor, amount: Amount) -> Row:
    """Measure pictures a second in training of the keyframe tokenizer, pictures in memory."""
    device = tokenizer.device
    with tempfile.TemporaryDirectory() as folder:
        model = tokenizer.bundle.load("keyframes", KeyframeTokenizer, torch.float32).requires_grad_(True)
        batch = {"images": images[torch.arange(amount.training_batch) % len(images)]}
        precision = "bf16" if device.type == "cuda" else "no"
        steps = amount.training_steps
        plan = Plan(steps, amount.training_batch, 1e-5, warmup_steps=1, precision=precision, save_every=steps)
        times: list[float] = []
        train(
            KeyframeTraining(model),
            _SameBatch(batch),
            [],
            plan,
            Path(folder),
            criterion=None,
            device=str(device),
            report=lambda step, figures: times.append(_clock(device)()),
        )
    # the first steps choose kernels
    skipped = min(5, steps // 2)
    pictures = (len(times) - 1 - skipped) * amount.training_batch / (times[-1] - times[skipped])
    return {"what": "training", "batch": amount.training_batch, "precision": precision, "pictures_per_second": pictures}


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each measurement that `options` ask for; see `main`."""
    amount, videos = QUICK if options.quick else FULL, footage(options.videos)
    tokenizer = VideoTokenizer.from_pretrained(options.model, device=options.device)
    on_gpu = tokenizer.device.type == "cuda"
    name = torch.cuda.get_device_name(tokenizer.device) if on_gpu else str(tokenizer.device)
    yield {"what": "device", "name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
    chosen = set(options.only)
    if "ids" in chosen:
        yield compare_ids(tokenizer, videos[: amount.videos], 4)
    size = tokenizer.keyframes.image_size
    if "rounding" in chosen:
        codes = options.codes or amount.codes
        images = pictures(videos, photograph_files(options.photos), -(-codes // CODES_PER_PICTURE), size)
        yield rounding(tokenizer, images, codes, amount.rounding_batch)
    if "decisions" in chosen:
        yield decisions(tokenizer, videos, amount.decisions)
    if chosen.isdisjoint(SPEEDS):
        return
    data = Footage.read(videos[: amount.videos], 4)
    images = data.images(size)
    if "keyframes" in chosen:
        yield keyframe_speed(tokenizer, images, amount)
    if "motion" in chosen:
        yield from (motion_speed(tokenizer, data.fields(), batch, amount.seconds) for batch in amount.batches)
    if "frames" in chosen:
        for dtype in (torch.float32, torch.bfloat16):
            tokenizer.to(dtype=dtype)
            yield from (frame_speed(tokenizer, data.clips, batch, amount.seconds) for batch in amount.batches)
    if "training" in chosen:
        yield training_speed(tokenizer, images, amount)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _complaints(row: Row) -> list[str]:
    """Return what a row says against the promise that ids are the same everywhere."""
    if row["what"] == "ids" and row["different"]:
        return [f"ids differ from those of the CPU in float64: {', '.join(row['different'])}"]
    if row["what"] == "rounding" and row["different"]:
        return [f"{row['different']} of {row['pictures']} pictures have other patches or codes than in float64"]
    if row["what"] == "rounding" and not row["within"]:
        return [f"rounding is {min(row['safety_factors'].values()):.2g} times below its bound: {row['safety_factors']}"]
    return []


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the module.

    Raises:
        SystemExit: with status 1 and a line for each row that breaks the promise that ids are the same everywhere.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.device", description="Speed and exactness of the models.")
    add_footage_arguments(parser)
    parser.add_argument("--photos", nargs="+", type=Path, default=[], help="photographs, or folders: half the pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    parser.add_argument("--model", type=Path, help="folder of weights; default: those that ship")
    parser.add_argument("--codes", type=int, help="codes whose rounding is measured (default 100,000; 1,000)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="few videos, small batches, short times: for a CPU")
    rows, complaints = [], []
    options = parser.parse_args(arguments)
    for row in measure(options):
        rows.append(row)
        complaints += _complaints(row)
        figures = ", ".join(f"{name} {_cell(value)}" for name, value in row.items() if name != "what")
        print(f"{row['what']:<10} {figures}", flush=True)
        if options.json:
            write_json(options.json, rows)
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
