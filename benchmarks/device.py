"""Speed and exactness of the models on a device: `python -m benchmarks.device VIDEOS… --device cuda --json OUT`.

With the shipped weights, in float32 and (decoding and training) bfloat16, on the keyframes and motion of the videos:

    ids          videos encoded on the device and on the CPU: are all ids and masks equal?
    keyframes    encoded and decoded a second, in batches
    motion       clips encoded and decoded a second, one at a time and in batches
    frames       clips of 24 frames rebuilt a second, one at a time and in batches
    training     pictures a second of the keyframe tokenizer
    rounding     what float32 gets wrong beside float64 (docs/adr/0005-float32-certificate.md): the largest error of a
                 decoded pixel and of a patch's root mean squared error, over `--codes` codes; that of the encoder's
                 unit vectors, and the share of codes that it would change; how many keyframes were decoded again

Rows of the JSON: {"what", …figures}; the first one says which device. A GPU takes less than five minutes; `--quick`
is for a CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from codec import Clip, MotionField, iter_clips
from motion_vq.model_base import double_precision, no_tf32
from videotok.config import EncodeConfig
from videotok.image_utils import resize, to_square_tensor, to_tensor
from videotok.io_utils import write_json
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.train import KeyframeTraining
from videotok.keyframes.vit import patchify
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
    training_batch: int
    training_steps: int


FULL = Amount(8, 2.0, (1, 16), 64, 128, 30)
QUICK = Amount(1, 0.5, (1, 4), 8, 8, 3)


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
    work()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < seconds:
        work()
        _wait(device)
        calls += 1
    return calls * items / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def compare_ids(tokenizer: VideoTokenizer, videos: list[Path], clips: int) -> Row:
    """Encode videos on the device in batches, and on the CPU in batches of one on one thread: are all ids equal?"""
    different, decoded_again, keyframes = [], [], 0
    cpu = VideoTokenizer(tokenizer.bundle)
    handle = tokenizer.keyframes.detokenizer.register_forward_hook(  # type: ignore[attr-defined]
        lambda module, inputs, output: decoded_again.extend(output if output.dtype == torch.float64 else ())
    )
    for video in videos:
        found = tokenizer.encode(video, EncodeConfig(max_clips=clips))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        wanted = cpu.encode(video, EncodeConfig(max_clips=clips, batch_size=1))
        torch.set_num_threads(threads)
        keyframes += found.num_clips
        if any(not np.array_equal(getattr(found, name), getattr(wanted, name)) for name in IDS):
            different.append(video.name)
    handle.remove()
    counts = {"videos": len(videos), "keyframes": keyframes, "decoded_again_in_float64": len(decoded_again)}
    return {"what": "ids", **counts, "different": different}


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
            device=device.type,
            report=lambda step, figures: times.append(time.perf_counter()),
        )
    # the first steps choose kernels
    skipped = min(5, steps // 2)
    pictures = (len(times) - 1 - skipped) * amount.training_batch / (times[-1] - times[skipped])
    return {"what": "training", "batch": amount.training_batch, "precision": precision, "pictures_per_second": pictures}


def rounding(tokenizer: VideoTokenizer, images: Tensor, num_codes: int, batch: int) -> Row:
    """Measure what float32 on the device gets wrong beside float64, with a token for every patch."""
    with tokenizer.encoding():
        model = tokenizer.keyframes
        assert isinstance(model, KeyframeTokenizer)
        bound, patch = model.decode_error, model.config["patch_size"]
        codes = changed = 0
        pixel = patch_root = vector = 0.0
        for start in range(0, len(images), batch):
            if codes >= num_codes:
                break
            part = images[start : start + batch].to(tokenizer.device)
            mask = torch.ones(len(part), model.num_patches, dtype=torch.bool, device=part.device)
            tokens = model.encode(part, keep_mask=mask)
            rounded = model.decode(tokens.ids, mask).double()
            with torch.no_grad(), no_tf32():
                vectors = model.code_vectors(model.features(part), mask)[0]
                ids = model.codebook.nearest(vectors)
            with double_precision(model), torch.no_grad():
                exact = model.decode(tokens.ids, mask).to(rounded)
                exact_vectors = model.code_vectors(model.features(part), mask)[0].to(vectors.device, torch.float64)
            codes += ids.numel()
            changed += int((ids != torch.stack(tokens.ids)).sum())
            vector = max(vector, float((vectors - exact_vectors).norm(dim=-1).max()))
            pixel = max(pixel, float((rounded - exact).abs().max()))
            source = part.double()
            errors = [patchify((picture - source).square(), patch).mean(-1) for picture in (rounded, exact)]
            patch_root = max(patch_root, float(((errors[0] - errors[1]).abs() / (2 * errors[1].sqrt())).max()))
    return {
        "what": "rounding",
        "codes": codes,
        "pictures": codes // model.num_patches,
        "pixel_error": pixel,
        "patch_error": patch_root,
        "bound": bound,
        "within": patch_root <= bound,
        "vector_error": vector,
        "codes_changed_by_float32": changed / codes,
    }


def measure(bundle: Path | None, device: str, videos: list[Path], amount: Amount, num_codes: int) -> Iterator[Row]:
    """Yield a row for each measurement."""
    tokenizer = VideoTokenizer.from_pretrained(bundle, device=device)
    on_gpu = tokenizer.device.type == "cuda"
    name = torch.cuda.get_device_name(tokenizer.device) if on_gpu else str(tokenizer.device)
    yield {"what": "device", "name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
    yield compare_ids(tokenizer, videos[: amount.videos], 4)
    clips_per_video = -(-num_codes // (256 * len(videos))) if num_codes else 4
    data = Footage.read(videos, clips_per_video)
    images = data.images(tokenizer.keyframes.image_size)
    if num_codes:
        yield rounding(tokenizer, images, num_codes, amount.keyframe_batch)
    yield keyframe_speed(tokenizer, images, amount)
    for batch in amount.batches:
        yield motion_speed(tokenizer, data.fields(), batch, amount.seconds)
    for dtype in (torch.float32, torch.bfloat16):
        tokenizer.to(dtype=dtype)
        for batch in amount.batches:
            yield frame_speed(tokenizer, data.clips, batch, amount.seconds)
    yield training_speed(tokenizer, images, amount)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(prog="benchmarks.device", description="Speed and exactness of the models.")
    add_footage_arguments(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    parser.add_argument("--model", type=Path, help="folder of weights; default: those that ship")
    parser.add_argument("--codes", type=int, default=100_000, help="codes whose rounding is measured; 0: none")
    parser.add_argument("--quick", action="store_true", help="few videos, small batches, short times: for a CPU")
    options = parser.parse_args(arguments)
    amount = QUICK if options.quick else FULL
    rows = []
    for row in measure(options.model, options.device, footage(options.videos), amount, options.codes):
        rows.append(row)
        figures = ", ".join(f"{name} {_cell(value)}" for name, value in row.items() if name != "what")
        print(f"{row['what']:<10} {figures}", flush=True)
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
