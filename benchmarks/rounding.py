"""Errors of float32 beside float64, and how often keyframes are decided again (docs/adr/0005-float32-certificate.md).

    rounding     error of decoded pixels, of patches' root mean squared errors and of the encoder's vectors
    decisions    keyframes encoded one after another: how many decisions float32 leaves open

`python -m benchmarks.device` runs both.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from codec import iter_clips
from motion_vq.model_base import as_double, double_precision, no_tf32
from videotok.config import EncodeConfig
from videotok.image_utils import to_square_tensor
from videotok.inputs import PHOTO_SUFFIXES
from videotok.keyframe_prediction import PredictiveKeyframeEncoder
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.vit import patchify
from videotok.pipeline import VideoTokenizer

SAFETY = 4
"""A bound is so many times the largest error that was measured."""
PARTIAL_EVERY = 4
"""Of so many batches one has codes for the patches that the selector keeps, and the others for all patches."""
CODES_PER_PICTURE = 224
"""On average over these."""
KEYFRAMES_PER_VIDEO = 8
"""Keyframes of each video whose decisions are counted: most of them have one before."""

Row = dict[str, Any]


def photograph_files(paths: Iterable[Path]) -> list[Path]:
    """Return the photographs of `paths`: files, and those below folders in order of name."""
    files = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths]
    return [file for group in files for file in group if file.suffix.lower() in PHOTO_SUFFIXES]


def pictures(videos: Sequence[Path], photographs: Sequence[Path], count: int, size: int) -> Iterator[Tensor]:
    """Yield up to `count` pictures, float32 [1, 3, size, size] in [-1, 1], photographs and keyframes in turn.

    Videos and photographs are taken evenly from their lists; there are fewer keyframes where the videos end.
    """
    stills = (image for path in evenly(photographs, count // 2) for image in _keyframes(path, 1, size))
    chosen = evenly(videos, count - min(len(photographs), count // 2))
    per_video = -(-count // max(len(chosen), 1))
    keyframes = (image for path in chosen for image in _keyframes(path, per_video, size))
    for still in stills:
        yield still
        yield from itertools.islice(keyframes, 1)
    yield from keyframes


def evenly(items: Sequence[Path], count: int) -> list[Path]:
    """Return at most `count` items, evenly from a list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _keyframes(path: Path, count: int, size: int) -> Iterator[Tensor]:
    for clip in iter_clips(path, max_clips=count):
        yield to_square_tensor(clip.keyframe, size)


@dataclass
class Rounding:
    """The largest errors of float32 over some pictures."""

    codes: int = 0
    pictures: int = 0
    pixel_error: float = 0.0
    """Of a decoded pixel in [-1, 1]."""
    patch_error: float = 0.0
    """Of the root of a patch's mean squared error against its picture, which the bound is for."""
    vector_error: float = 0.0
    """Of the encoder's unit vectors: Euclidean distance."""
    codes_changed: int = 0
    """Codes that float32 alone would change. None are: codes are decided in float64."""

    def add(self, model: KeyframeTokenizer, images: Tensor, mask: Tensor | None) -> Tensor:
        """Measure images [B, 3, S, S] with the patches of `mask` bool [B, N], None: those that the model keeps.

        Returns:
            [B]: how far a vector may be off before one of the image's codes is another one, at least.
        """
        tokens = model.encode(images, keep_mask=mask)
        mask = tokens.keep_mask
        rounded = as_double(model.decode(tokens.ids, mask))
        with torch.no_grad(), no_tf32():
            vectors, present = model.code_vectors(model.features(images), mask)
            changed = model.codebook.nearest(vectors)[present] != torch.cat(tokens.ids)
        with double_precision(model), torch.no_grad():
            exact = model.decode(tokens.ids, mask).to(rounded)
            exact_vectors = model.code_vectors(model.features(images), mask)[0]
            present = present.to(exact_vectors.device)
            room = [self._room(model, row[there]) for row, there in zip(exact_vectors, present, strict=True)]
        off = (as_double(vectors) - exact_vectors)[present].norm(dim=-1)
        source, patch = as_double(images), model.config["patch_size"]
        roots = [patchify((picture - source).square(), patch).mean(-1).sqrt() for picture in (rounded, exact)]
        self.codes += changed.numel()
        self.pictures += len(images)
        self.codes_changed += int(changed.sum())
        self.vector_error = max(self.vector_error, float(off.max()))
        self.pixel_error = max(self.pixel_error, float((rounded - exact).abs().max()))
        self.patch_error = max(self.patch_error, float((roots[0] - roots[1]).abs().max()))
        return torch.stack(room)

    @staticmethod
    def _room(model: KeyframeTokenizer, vectors: Tensor) -> Tensor:
        """Return how far float64 vectors [n, dim] may be off before one of them has another nearest code, [].

        A vector that moves by d changes the difference of its products with two codes by at most d times the distance
        of these codes (Cauchy-Schwarz). The codes beyond the second one may be nearer to the first, so that they are
        reached sooner: the eight best are looked at.
        """
        codes = model.codebook.codes.to(vectors)
        best = (vectors @ codes.T).topk(8, dim=-1)
        distances = (codes[best.indices[:, 1:]] - codes[best.indices[:, :1]]).norm(dim=-1)
        return ((best.values[:, :1] - best.values[:, 1:]) / distances.clamp(min=1e-300)).min()


def rounding(tokenizer: VideoTokenizer, images: Iterable[Tensor], num_codes: int, batch: int) -> Row:
    """Measure what float32 on the device gets wrong beside float64.

    Most batches have a code for every patch; every `PARTIAL_EVERY`-th has codes for those that the selector keeps.

    Args:
        images: pictures [1, 3, S, S]; no more of them are taken than `num_codes` codes need.
        batch: pictures at once.
    """
    found, rooms = Rounding(), []
    with tokenizer.encoding():
        model = tokenizer.keyframes
        assert isinstance(model, KeyframeTokenizer)
        for number, part in enumerate(_batches(images, batch)):
            if found.codes >= num_codes:
                break
            part = part.to(model.device)
            mask = torch.ones(len(part), model.num_patches, dtype=torch.bool, device=part.device)
            rooms.append(found.add(model, part, mask if (number + 1) % PARTIAL_EVERY else None))
        bound = model.decode_error
    near = torch.cat(rooms) <= SAFETY * found.vector_error
    return {
        "what": "rounding",
        **asdict(found),
        "bound": bound,
        "safety_factor": bound / found.patch_error if found.patch_error else float("inf"),
        "within": found.patch_error <= bound,
        "pictures_with_near_codes": float(near.double().mean()),
    }


def _batches(images: Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    images = iter(images)
    while part := list(itertools.islice(images, batch)):
        yield torch.cat(part)


@dataclass
class Decisions:
    """Decisions on keyframes that float32 left open."""

    decided_again: int = 0
    """Keyframes of which patches were compared again in float64."""
    decoded_again_in_float64: int = 0
    """Keyframes that were decoded for this; those before in the chain too."""


@contextmanager
def counted_decisions() -> Iterator[Decisions]:
    """Inside, decisions that are made again are counted, whoever encodes."""
    counts, decode_exactly = Decisions(), PredictiveKeyframeEncoder._decode_exactly

    def counting(encoder: PredictiveKeyframeEncoder, links: list[Any]) -> None:
        counts.decided_again += 1
        counts.decoded_again_in_float64 += sum(link.error > 0 for link in links)
        decode_exactly(encoder, links)

    with mock.patch.object(PredictiveKeyframeEncoder, "_decode_exactly", counting):
        yield counts


def decisions(tokenizer: VideoTokenizer, videos: Sequence[Path], num_keyframes: int) -> Row:
    """Encode the first keyframes of videos, and count the decisions that float32 leaves open: 10 % are the most."""
    keyframes = 0
    with counted_decisions() as counts:
        for video in evenly(videos, -(-num_keyframes // KEYFRAMES_PER_VIDEO)):
            keyframes += tokenizer.encode(video, EncodeConfig(max_clips=KEYFRAMES_PER_VIDEO)).num_clips
    share = counts.decided_again / max(keyframes, 1)
    return {"what": "decisions", "keyframes": keyframes, **asdict(counts), "share_decided_again": share}
