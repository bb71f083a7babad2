"""Tokens to keyframes and motion: all that they say, before the detokenizer makes frames of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from motion_vq import MotionTokenizer, MotionTokens
from videotok.carry import moved_on, redrawn
from videotok.errors import TokensError
from videotok.keyframes import KeyframeTokenizerProtocol
from videotok.ladder import pixels, tensor
from videotok.pictures import from_jpeg, resized
from videotok.tokens import VideoTokens


@dataclass(frozen=True)
class DecodedClip:
    """What tokens say of one clip, before the detokenizer."""

    keyframe: Tensor
    """float32 [1, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """float32 [1, T, h, w, 2], fractions of the frame."""
    num_frames: int
    """Frames that are shown of it."""

    @property
    def ends_early(self) -> bool:
        """The video ends here, or the next clip begins a new scene: its keyframe is no help."""
        return self.num_frames < self.vectors.shape[1]


def scenes(clips: Iterable[DecodedClip]) -> Iterator[Iterator[DecodedClip]]:
    """Runs of clips that lead into one another; each must be read to its end before the next."""
    begun = 0

    def number(clip: DecodedClip) -> int:
        nonlocal begun
        this = begun
        begun += clip.ends_early
        return this

    return (run for _, run in groupby(clips, number))


def decoded_keyframes(
    tokens: VideoTokens, keyframes: KeyframeTokenizerProtocol, motion: MotionTokenizer
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each clip's keyframe from its ids, [1, 3, S, S] in [-1, 1], and its vectors [1, T, h, w, 2].

    Keyframes that carry patches need the clip before, so this begins at the beginning. Vectors are of all levels: those
    by which the encoder knew what would be carried.
    """
    before: tuple[Tensor, Tensor] | None = None
    for clip in range(tokens.num_clips):
        vectors = motion.decode(motion_tokens_of(tokens, clip))
        ids, kept = torch.from_numpy(tokens.visual_ids_of(clip)).long(), torch.from_numpy(tokens.keep_mask[clip])
        carried = torch.from_numpy(tokens.carry_mask[clip])
        if before is not None and carried.any():
            square = redrawn(keyframes, ids, kept, carried, moved_on(*before, vectors))
        else:
            square = keyframes.decode([ids], kept[None])
        yield square, vectors
        before = square, vectors


def decoded_clips(
    tokens: VideoTokens,
    keyframes: KeyframeTokenizerProtocol,
    motion: MotionTokenizer,
    size: tuple[int, int],
    *,
    motion_levels: int | None = None,
) -> Iterator[DecodedClip]:
    """Clip after clip with the keyframes that its ids say, at `size` (width, height).

    Args:
        motion_levels: motion is shown from so many levels; keyframes are carried along all of them, as when encoding.
    """
    shown = None if motion_levels is None else tokens.first_levels(motion_levels)
    for clip, (square, vectors) in enumerate(decoded_keyframes(tokens, keyframes, motion)):
        steps = vectors if shown is None else motion.decode(motion_tokens_of(shown, clip))
        yield DecodedClip(fitted(square, size), steps, int(tokens.num_frames[clip]))


def given_clips(
    tokens: VideoTokens, motion: MotionTokenizer, size: tuple[int, int], pictures: Iterator[np.ndarray]
) -> Iterator[DecodedClip]:
    """Clip after clip with keyframes that are given, uint8 [H, W, 3] RGB each.

    Raises:
        TokensError: fewer pictures than clips.
    """
    for clip in range(tokens.num_clips):
        picture = next(pictures, None)
        if picture is None:
            raise TokensError(f"there are {clip} keyframes for {tokens.num_clips} clips of {tokens.source.file}")
        vectors = motion.decode(motion_tokens_of(tokens, clip))
        yield DecodedClip(tensor(resized(picture, size)), vectors, int(tokens.num_frames[clip]))


def kept_pictures(tokens: VideoTokens) -> Iterator[np.ndarray]:
    """The keyframes that were kept as pictures, uint8 [H, W, 3] RGB.

    Raises:
        TokensError: one of them is no JPEG file.
    """
    for clip, data in enumerate(tokens.pictures):
        picture = from_jpeg(data)
        if picture is None:
            raise TokensError(f"the picture of keyframe {clip} of {tokens.source.file} cannot be decoded")
        yield picture


def fitted(square: Tensor, size: tuple[int, int]) -> Tensor:
    """A keyframe [1, 3, S, S] in [-1, 1] at `size` (width, height): float32 [1, 3, height, width], of 256 levels."""
    return tensor(resized(pixels(square[:, None])[0], size))


def motion_tokens_of(tokens: VideoTokens, clip: int) -> MotionTokens:
    """The motion and camera ids of one clip, as a batch of one."""
    return MotionTokens(
        ids=torch.from_numpy(tokens.motion_ids[clip : clip + 1]).long(),
        camera_ids=torch.from_numpy(tokens.camera_ids[clip : clip + 1]).long(),
    )


def check_patches(tokens: VideoTokens, patches: int) -> None:
    """Refuses tokens of the same weights with pictures of another size: a VQModel's size is a choice of its folder."""
    made = tokens.keep_mask.shape[1]
    if made != patches:
        raise TokensError(
            f"keyframes of {tokens.source.file} have {made} patches, the model at hand has {patches}; "
            "give its videotok.json the `image_size` the tokens were made with, or encode the video again"
        )
