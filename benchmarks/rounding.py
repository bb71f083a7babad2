"""Errors of float32 beside float64, and how often keyframes are decided again (docs/adr/0005-float32-certificate.md).

    rounding     errors of what decides ids (what a patch saves, unit vectors, decoded pictures); ids against float64's
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
import torch.nn.functional as F
from torch import Tensor, nn

from codec import iter_clips
from motion_vq.model_base import as_double, double_precision, no_tf32
from videotok.config import EncodeConfig
from videotok.image_utils import to_square_tensor
from videotok.inputs import PHOTO_SUFFIXES
from videotok.keyframe_prediction import PredictiveKeyframeEncoder
from videotok.keyframes import KeyframeTokenizer, KeyframeTokens
from videotok.keyframes.selector import GreedyState, PredictedErrors, Selector, keep_above
from videotok.keyframes.vit import patchify
from videotok.pipeline import VideoTokenizer

CODES_PER_PICTURE = 192
"""On average over pictures with a code for half of the patches and pictures with a code for all of them."""
DECODED_EVERY = 4
"""See `rounding`."""
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
    """The largest errors of float32 over some pictures, and how often pictures were encoded again in float64."""

    codes: int = 0
    pictures: int = 0
    encoded_again: int = 0
    """Pictures that `encode` did again in float64, since rounding could have decided."""
    different: int = 0
    """Pictures of which patches or codes are others than those of float64: none should be."""
    gain_error: float = 0.0
    """Of the log of what a patch saves in a turn of the selection."""
    vector_error: float = 0.0
    """Of the encoder's unit vectors: Euclidean distance."""
    decoded: int = 0
    pixel_error: float = 0.0
    """Of a decoded pixel in [-1, 1], over `decoded` pictures."""
    patch_error: float = 0.0
    """Of the root of a patch's mean squared error against its picture, over the same."""

    @torch.no_grad()
    def add(self, model: KeyframeTokenizer, images: Tensor, keep_ratio: float) -> KeyframeTokens:
        """Encode images [B, 3, S, S] in both precisions; returns the tokens of float32."""
        with counted_encodings(model) as counts:
            tokens = model.encode(images, keep_ratio=keep_ratio)
        with no_tf32():
            features, predicted = self._features(model, images)
            merged, present = model.merger(features, tokens.keep_mask)
            vectors = F.normalize(as_double(model.to_code(merged)), dim=-1)
        with double_precision(model):
            exact_features, exact_predicted = self._features(model, images)
            threshold = model.thresholds(keep_ratio).to(exact_features)
            scores = model.selector.scores_of(exact_predicted, threshold=threshold)
            mask = keep_above(scores, threshold)
            exact = model.encode_features(exact_features, images, mask)
            exact_vectors = model.code_vectors(exact_features, tokens.keep_mask.to(mask.device))[0]
        off = (vectors - exact_vectors)[present.to(vectors.device)].norm(dim=-1)
        is_other = (exact.keep_mask.to(tokens.keep_mask.device) != tokens.keep_mask).any(dim=1).tolist()
        pairs = zip(exact.ids, tokens.ids, strict=True)
        self.different += sum(other or not torch.equal(*ids) for other, ids in zip(is_other, pairs, strict=True))
        self.codes += sum(map(len, tokens.ids))
        self.pictures += len(images)
        self.encoded_again += counts.pictures
        self.vector_error = max(self.vector_error, float(off.max()))
        if keep_ratio < 1:
            turns = int(mask.sum(dim=1).max())
            self.gain_error = max(self.gain_error, gain_error(model.selector, predicted, exact_predicted, turns))
        return tokens

    @torch.no_grad()
    def add_decoded(self, model: KeyframeTokenizer, images: Tensor, tokens: KeyframeTokens) -> None:
        """Decode the tokens of images in both precisions."""
        rounded = as_double(model.decode(tokens.ids, tokens.keep_mask))
        with double_precision(model):
            exact = model.decode(tokens.ids, tokens.keep_mask).to(rounded)
        source, patch = as_double(images), model.config["patch_size"]
        roots = [patchify((picture - source).square(), patch).mean(-1).sqrt() for picture in (rounded, exact)]
        self.decoded += len(images)
        self.pixel_error = max(self.pixel_error, float((rounded - exact).abs().max()))
        self.patch_error = max(self.patch_error, float((roots[0] - roots[1]).abs().max()))

    @staticmethod
    def _features(model: KeyframeTokenizer, images: Tensor) -> tuple[Tensor, PredictedErrors]:
        features = model.features(images)
        return features, model.selector(features)


def gain_error(selector: Selector, rounded: PredictedErrors, exact: PredictedErrors, turns: int) -> float:
    """Return the largest error of a gain over the first turns of the exact selection."""
    distances = as_double(selector.distances)
    states = [
        GreedyState(as_double(errors.log_saving), as_double(errors.redundancy), distances)
        for errors in (rounded, exact)
    ]
    largest = 0.0
    for _ in range(turns):
        gains = [state.gains() for state in states]
        off = (gains[0] - gains[1]).abs()
        largest = max(largest, float(off[gains[1].isfinite()].max()))
        best = gains[1].argmax(dim=1, keepdim=True)
        for state in states:
            state.take(best)
    return largest


@dataclass
class Encodings:
    """Pictures that were encoded in float64."""

    pictures: int = 0


@contextmanager
def counted_encodings(model: KeyframeTokenizer) -> Iterator[Encodings]:
    """Inside, pictures that the model encodes in float64 are counted."""
    counts = Encodings()

    def count(module: nn.Module, inputs: Any, features: Tensor) -> None:
        counts.pictures += len(features) if features.dtype == torch.float64 else 0

    handle = model.vit.register_forward_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def rounding(tokenizer: VideoTokenizer, images: Iterable[Tensor], num_codes: int, batch: int) -> Row:
    """Compare float32 on the device with float64.

    Batches have codes for the patches that the selector keeps and for all patches in turn; every `DECODED_EVERY`-th
    batch of each kind is decoded too, which takes most of the time.

    Args:
        images: pictures [1, 3, S, S]; no more of them are taken than `num_codes` codes need.
        batch: pictures at once.
    """
    found = Rounding()
    with tokenizer.encoding():
        model = tokenizer.keyframes
        assert isinstance(model, KeyframeTokenizer)
        for number, part in enumerate(_batches(images, batch)):
            if found.codes >= num_codes:
                break
            part = part.to(model.device)
            tokens = found.add(model, part, 1.0 if number % 2 else model.config["default_keep_ratio"])
            if number // 2 % DECODED_EVERY == 0:
                found.add_decoded(model, part, tokens)
        bounds = {"gain": model.gain_error, "vector": model.vector_error, "patch": model.decode_error}
    errors = {"gain": found.gain_error, "vector": found.vector_error, "patch": found.patch_error}
    factors = {name: bounds[name] / max(errors[name], 1e-300) for name in bounds}
    return {
        "what": "rounding",
        **asdict(found),
        "share_encoded_again": found.encoded_again / max(found.pictures, 1),
        "bounds": bounds,
        "safety_factors": factors,
        "within": min(factors.values()) >= 1,
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
