"""Checksums of ids and frames, to see whether a change of the code changes them.

    python -m benchmarks.golden VIDEOS… --json OUT
    python -m benchmarks.golden VIDEOS… --against OTHER     (exit code 1 where anything differs)

Two clips of every video are read, encoded in the default configuration and decoded, with the shipped weights or those
of `--model`; the first three videos are also encoded in the configurations of `VARIANTS`, and files after `--ids-only`
in the default one alone.
benchmarks/golden.json holds the checksums of 2026-11-27, with the weights that ship since then (three minutes):

    python -m benchmarks.golden NATURAL EDGE --against benchmarks/golden.json

The sha256 of the weights is recorded too; values that depend on a model whose weights differ are not compared.
Ids must be equal on every machine. Checksums of decoded frames depend on the machine's float32 arithmetic: where they
differ, the mean value of the frames is compared instead.
"""

import argparse
import hashlib
import math
from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.footage import footage
from codec import MediaError, iter_clips
from videotok import TokensError, VideoTokenizer
from videotok.bundle import PARTS
from videotok.config import EncodeConfig
from videotok.io_utils import read_json, write_json

DEFAULT = EncodeConfig(max_clips=2)
VARIANTS = {
    "independent": EncodeConfig(max_clips=2, predict_keyframes=False, motion_quantizers=4),
    "64-tokens": EncodeConfig(max_clips=3, tokens_per_keyframe=64),
    "reencode": EncodeConfig(max_clips=1, motion_source="reencode"),
    "mpeg4": EncodeConfig(max_clips=1, motion_source="mpeg4", fps=Fraction(6)),
    "cuts": EncodeConfig(max_clips=2, start_seconds=1.5, split_at_cuts=True, keep_ratio=0.3),
}
"""Name -> how the first videos are encoded besides the default."""
NUM_VARIANT_VIDEOS = 3
FIELD_CLIPS = 3
MEAN_TOLERANCE = 0.05
"""Difference of the mean of decoded frames, in steps of 1/255, that other arithmetic may make."""

DECODED = ("decoded", "decoded_mean")
DEPENDS_ON = {
    "keyframes": ("visual", "keep", "skip", "num_tokens", *DECODED),
    "motion": ("motion", "global_motion", "visual", "keep", "skip", "num_tokens", *DECODED),
    "detokenizer": DECODED,
}
"""Model -> values that its weights decide; patches are skipped by what the decoded motion predicts."""

Entry = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description="Checksums of ids and frames, to compare two versions of the code.")
    parser.add_argument("videos", nargs="+", type=Path, help="video files, or folders of them")
    parser.add_argument("--ids-only", nargs="*", type=Path, default=[], help="files that are encoded but not decoded")
    parser.add_argument("--json", type=Path, help="write the checksums to this file")
    parser.add_argument("--against", type=Path, help="compare with the checksums of this file")
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    entries: dict[str, Entry] = {"weights": {part: tokenizer.bundle.identity(part).sha256 for part in PARTS}}
    for name, entry in make_entries(tokenizer, footage(options.videos), options.ids_only):
        entries[name] = entry
        print(name, flush=True)
        if options.json:
            write_json(options.json, entries)
    if not options.against:
        return 0
    other = read_json(options.against)
    shared = sorted(set(entries) & set(other))
    shared.remove("weights")
    changed = {part for part in PARTS if entries["weights"][part] != other["weights"][part]}
    left_out = {value for part in changed for value in DEPENDS_ON[part]}
    differences = [line for name in shared for line in compare(name, entries[name], other[name], left_out)]
    print("\n".join(differences))
    if changed:
        print(f"other weights of {', '.join(sorted(changed))}: not compared are {', '.join(sorted(left_out))}")
    print(f"{len(shared)} of {len(other) - 1} entries compared, {len(differences)} values differ")
    return int(bool(differences))


def make_entries(tokenizer: VideoTokenizer, videos: list[Path], ids_only: list[Path]) -> Iterator[tuple[str, Entry]]:
    """Yield the name and the checksums of each entry: `<configuration>/<file>`."""
    for video in videos:
        yield f"default/{video.name}", _safely(encode_and_decode, tokenizer, video, DEFAULT, True)
        yield f"fields/{video.name}", _safely(read_fields, video)
    for video in videos[:NUM_VARIANT_VIDEOS]:
        for name, config in VARIANTS.items():
            yield f"{name}/{video.name}", _safely(encode_and_decode, tokenizer, video, config, False)
    for video in ids_only:
        yield f"default/{video.name}", _safely(encode_and_decode, tokenizer, video, DEFAULT, False)


def _safely(make: Callable[..., Entry], *arguments: Any) -> Entry:
    """Return what `make` returns; the kind of error where it refuses the file, since messages may be reworded."""
    try:
        return make(*arguments)
    except (MediaError, TokensError, OSError) as error:
        return {"error": type(error).__name__}


def encode_and_decode(tokenizer: VideoTokenizer, video: Path, config: EncodeConfig, decodes: bool) -> Entry:
    """Return checksums of a video's ids and, where asked for, of its decoded frames.

    Raises:
        MediaError: the video cannot be read.
    """
    tokens = tokenizer.encode(video, config)
    entry = {
        "visual": checksum(tokens.visual_ids, tokens.visual_offsets),
        "keep": checksum(tokens.keep_mask),
        "skip": checksum(tokens.skip_mask),
        "motion": checksum(tokens.motion_ids),
        "global_motion": checksum(tokens.global_motion_ids),
        "frames": checksum(tokens.num_frames, tokens.pts_seconds, tokens.damaged),
        "num_tokens": tokens.num_tokens,
    }
    if decodes:
        digest, total, count = hashlib.sha256(), 0.0, 0
        for frame in tokenizer.decode(tokens):
            digest.update(frame.tobytes())
            total += float(frame.astype(np.float64).mean())
            count += 1
        entry |= {"decoded": digest.hexdigest()[:16], "decoded_mean": total / count, "decoded_frames": count}
    return entry


def read_fields(video: Path) -> Entry:
    """Return checksums of a video's keyframes and motion fields, as the codec gives them.

    Raises:
        MediaError: the video cannot be read.
    """
    clips = list(iter_clips(video, max_clips=FIELD_CLIPS))
    return {
        "fields": checksum(*(clip.motion.vectors for clip in clips), *(clip.motion.valid for clip in clips)),
        "keyframes": checksum(*(clip.keyframe for clip in clips)),
    }


def checksum(*arrays: np.ndarray) -> str:
    """Return the first 16 digits of the sha256 of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def compare(name: str, entry: Entry, other: Entry, left_out: Collection[str] = ()) -> list[str]:
    """Return a line for each value of an entry that differs from the other's, except for those left out."""
    close = math.isclose(entry.get("decoded_mean", 0), other.get("decoded_mean", 0), abs_tol=MEAN_TOLERANCE)
    tolerated = {*left_out, *(DECODED if close else ())}
    return [
        f"{name}: {key} is {entry.get(key)}, was {other.get(key)}"
        for key in sorted(set(entry) | set(other))
        if entry.get(key) != other.get(key) and key not in tolerated
    ]


if __name__ == "__main__":
    raise SystemExit(main())
