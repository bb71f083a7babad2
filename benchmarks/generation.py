"""Speed, seams and drift of generated video: `python -m benchmarks.generation PICTURES… --lm FOLDER --json OUT`

Speed: CPU milliseconds for one more id, after so many ids were read. With a key-value cache; by reading everything
again; with guidance, which reads two sequences; for a batch of 4 (of all its rows together); and what choosing the id
among the legal ones takes of it.

Chains: each picture, or first frame of a video, is the first keyframe of `--clips` clips, for each way to get the later
keyframes. Figures of the frames:

    seam        mean absolute difference across clip boundaries over that inside clips; 1 cannot be told apart
    sharpness   of the last clip over that of the first
    colour      change of the mean colour from the first to the last clip, in steps of 1/255
    contrast    standard deviation of the last clip over that of the first

memory: the most that the process has held, in MB, after the third clip and after the last. JSON: a dict of both lists.
`--sheet FILE.jpg` shows frames of each chain in a row.
"""

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.chaining import FrameDifferences
from codec import ClipSpec, iter_clips
from videotok.image_utils import resize, write_picture
from videotok.io_utils import write_json
from videotok.lm.grammar import VideoForm, VideoGrammar
from videotok.lm.loading import LoadedLanguageModel, load_language_model
from videotok.lm.model import VideoLanguageModel
from videotok.lm.sampling import CachedModel, SamplingConfig, default_sampling, sample_ids
from videotok.lm.video_generation import VideoGenerator, VideoPrompt
from videotok.metrics import sharpness

POSITIONS = (32, 128, 512, 896)
"""Ids before the one that is timed."""
REPEATS = 12
SHEET_COLUMNS, SHEET_SIZE = 5, (192, 108)
"""Frames of a video on the sheet, and (width, height) of each."""
MODES = ("predicted", "encoded", "generated")


@dataclass(frozen=True)
class SpeedResult:
    """CPU milliseconds for one more id."""

    position: int
    cached: float
    uncached: float
    guided: float
    batch_of_4: float


@dataclass(frozen=True)
class ChainResult:
    """One generated video."""

    picture: str
    text: str
    mode: str
    clips: int
    seam: float
    sharpness: float
    colour: float
    contrast: float
    memory_third: int
    memory_last: int
    cpu_seconds_per_clip: float
    """Of generating and decoding."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, seams and drift of generated video.")
    parser.add_argument("pictures", nargs="*", type=Path, help="pictures, or videos whose first frame is taken")
    parser.add_argument("--lm", type=Path, help="folder of the language model (default: the shipped one)")
    parser.add_argument("--texts", nargs="+", default=["the camera moves left"], help="texts, in turn for the pictures")
    parser.add_argument("--clips", type=int, default=10, help="clips of a chain")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="where keyframes come from")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance (default: the model's own)")
    parser.add_argument("--no-speed", action="store_true", help="measure chains alone")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--sheet", type=Path, help="picture file for frames of the chains")
    args = parser.parse_args()
    loaded = load_language_model(args.lm)
    speed = [] if args.no_speed else measure_speed(loaded.model)
    chains, rows = [], []
    for number, path in enumerate(args.pictures):
        for mode in args.modes:
            shown: list[np.ndarray] = []
            chains.append(measure_chain(loaded, path, args.texts[number % len(args.texts)], mode, args, shown))
            rows.append(shown)
            print_chain(chains[-1])
    for mode in args.modes:
        print_mean(mode, [chain for chain in chains if chain.mode == mode])
    if args.sheet:
        write_picture(args.sheet, sheet(rows))
    if args.json:
        write_json(args.json, {"speed": [asdict(row) for row in speed], "chains": [asdict(row) for row in chains]})


def measure_speed(model: VideoLanguageModel) -> list[SpeedResult]:
    """Measure and print the time of an id after several numbers of ids."""
    results = []
    for position in POSITIONS:
        row = SpeedResult(
            position,
            cached=_milliseconds(model, position, 1),
            uncached=_milliseconds(model, position, 1, is_cached=False),
            guided=_milliseconds(model, position, 2),
            batch_of_4=_milliseconds(model, position, 4),
        )
        results.append(row)
        print(
            f"after {position:>4} ids: {row.cached:6.1f} ms an id, without a cache {row.uncached:7.1f}, with guidance "
            f"{row.guided:6.1f}, a batch of 4 {row.batch_of_4:6.1f}",
            flush=True,
        )
    print(f"choosing an id among the legal ones: {_choosing_milliseconds(model):.1f} ms more")
    return results


@torch.no_grad()
def _milliseconds(model: VideoLanguageModel, position: int, rows: int, *, is_cached: bool = True) -> float:
    """Return the median CPU milliseconds of one more id of each of `rows` sequences."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, model.vocabulary.text_size, (position,), generator=generator)
    cached, found = CachedModel(model, rows), []
    cached.read_prompts([prompt] * rows)
    for token in range(REPEATS if is_cached else 3):
        began = time.process_time()
        if is_cached:
            cached.read(torch.full((rows,), token))
        else:
            CachedModel(model, rows).read_prompts([prompt] * rows)
        found.append(1000 * (time.process_time() - began))
    return float(np.median(found))


def _choosing_milliseconds(model: VideoLanguageModel) -> float:
    """Return the CPU milliseconds an id that the grammar and sampling take, beside the model: of one clip."""
    grammar = VideoGrammar(model.vocabulary, VideoForm(motion_quantizers=1), patches=256)
    sampling, logits = SamplingConfig(), torch.zeros(1, model.vocabulary.size)

    class Free(CachedModel):
        """Reads nothing: all ids are equally likely."""

        def _read(self, ids: torch.Tensor, is_read: torch.Tensor) -> torch.Tensor:
            return logits

    began = time.process_time()
    ids = sample_ids(
        model, [torch.zeros(1, dtype=torch.long)], grammar.start(), sampling, sampling.generators(1), cached_model=Free
    )
    return 1000 * (time.process_time() - began) / len(ids[0])


def measure_chain(
    loaded: LoadedLanguageModel, path: Path, text: str, mode: str, args: argparse.Namespace, shown: list[np.ndarray]
) -> ChainResult:
    """Generate one video and measure it while it is decoded; the first frame of each clip is added to `shown`."""
    sampling = default_sampling(loaded.model)
    if args.guidance is not None:
        sampling = replace(sampling, guidance=args.guidance)
    generator = VideoGenerator(loaded.model, loaded.tokenizer, sampling, mode)  # pyright: ignore[reportArgumentType]
    start = generator.encode_picture(first_frame(path))
    seconds = float(args.clips * generator.spec.duration_seconds)
    began, differences, memory, ends = time.process_time(), FrameDifferences(), [], []
    for clip in generator.frames(generator.generate([VideoPrompt.from_text(text, (), start)], seconds)):
        differences.add(clip.frames)
        shown.append(clip.frames[0])
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        ends = [*ends[:1], clip.frames]
    shown.append(ends[-1][-1])
    first, last = ends[0].astype(np.float64), ends[-1].astype(np.float64)
    return ChainResult(
        picture=path.name,
        text=text,
        mode=mode,
        clips=len(memory),
        seam=differences.ratio,
        sharpness=sharpness(ends[-1]) / sharpness(ends[0]),
        colour=float(np.abs(last.mean((0, 1, 2)) - first.mean((0, 1, 2))).mean()),
        contrast=float(last.std((1, 2)).mean() / first.std((1, 2)).mean()),
        memory_third=memory[min(2, len(memory) - 1)],
        memory_last=memory[-1],
        cpu_seconds_per_clip=(time.process_time() - began) / len(memory),
    )


def first_frame(path: Path) -> np.ndarray:
    """Return a picture, or the first frame of a video, uint8 [H, W, 3] RGB."""
    return next(iter_clips(path, ClipSpec(), max_clips=1)).keyframe


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Return a picture with a row for each video: `SHEET_COLUMNS` of its frames, uint8 [H, W, 3] RGB."""
    pictures = []
    for frames in rows:
        chosen = np.linspace(0, len(frames) - 1, SHEET_COLUMNS).round().astype(int)
        pictures.append(np.concatenate([resize(frames[index], SHEET_SIZE) for index in chosen], axis=1))
    return np.concatenate(pictures)


def print_chain(result: ChainResult) -> None:
    """Print one line for one chain."""
    print(
        f"{result.picture[:40]:<41}{result.mode:<11}{result.clips:>3} clips  seam {result.seam:.3f}  sharpness "
        f"{result.sharpness:.2f}  colour {result.colour:.1f}  contrast {result.contrast:.2f}  memory "
        f"{result.memory_third} -> {result.memory_last} MB  {result.cpu_seconds_per_clip:.1f} CPU s a clip",
        flush=True,
    )


def print_mean(mode: str, results: Sequence[ChainResult]) -> None:
    """Print the means over all videos."""
    if results:
        means = [
            f"{name} {np.mean([getattr(row, name) for row in results]):.3f}"
            for name in ("seam", "sharpness", "colour", "contrast", "cpu_seconds_per_clip")
        ]
        print(f"{mode:<11}{len(results)} videos: {'  '.join(means)}")


if __name__ == "__main__":
    main()
