"""Evidence: all that keyframes and motion tell of a clip's frames, gathered before the network looks at it."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.align import align
from unet3d.warp import EVERY_FRAME, compose, follow, nearness, one_way, refine, resize, two_way, warp

CANDIDATES = ("forward", "backward", "forward_aligned", "backward_aligned", "keyframe", "next_keyframe", "previous")
"""Pictures that a frame may be mixed from. What is not there is stood in for by its nearest kin, never by zeros."""
MAPS = ("forward_confidence", "backward_confidence", "nearness", "has_next", "has_previous", "motion_x", "motion_y")
"""Figures of every pixel; motion in pixels a step, divided by 8 to be of the size of the others."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the frames of a clip; every tensor can be cut in time and space alike."""

    prior: Tensor
    """[B, T, 3, H, W] in [-1, 1]: the best guess without a network, which the network sets right."""
    candidates: Tensor
    """[B, T, len(CANDIDATES), 3, H, W]."""
    maps: Tensor
    """[B, T, len(MAPS), H, W]."""

    def padded(self, multiple: int) -> "Evidence":
        """Grown to the right and below by its border, to sides that are multiples of `multiple`."""
        height, width = self.prior.shape[-2:]
        grow = (0, -width % multiple, 0, -height % multiple)
        if not any(grow):
            return self

        def pad(values: Tensor) -> Tensor:
            return F.pad(values.flatten(0, -4), grow, mode="replicate").unflatten(0, values.shape[:-3])

        return Evidence(**{part.name: pad(getattr(self, part.name)) for part in fields(self)})


def gather(
    keyframe: Tensor,
    vectors: Tensor,
    *,
    next_keyframe: Tensor | None = None,
    next_vectors: Tensor | None = None,
    previous_frame: Tensor | None = None,
    window: slice = EVERY_FRAME,
) -> Evidence:
    """Warps keyframes along the motion and compares them.

    Args:
        keyframe: [B, 3, H, W] in [-1, 1], frame 0.
        vectors: [B, T, h, w, 2], the clip's field (`codec.types.MotionField`).
        next_keyframe: like `keyframe`, the next clip's, where there is one.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field; must come with `next_keyframe`.
        previous_frame: like `keyframe`, the last frame of the clip before, where there is one.
        window: frames that are wanted.

    Raises:
        ValueError: one of `next_keyframe` and `next_vectors` without the other.
    """
    if (next_keyframe is None) != (next_vectors is None):
        missing = "next_vectors" if next_vectors is None else "next_keyframe"
        raise ValueError(f"`{missing}` is missing: give the next clip's keyframe and its vectors, or neither of them")
    near = nearness(vectors.shape[1], keyframe)[window]
    if next_keyframe is None or next_vectors is None:
        guess = one_way(keyframe, vectors, window)
        first = second = guess.forward
    else:
        guess = two_way(keyframe, vectors, next_keyframe, next_vectors, window)
        times = near.repeat(len(keyframe))
        first, second = (
            moved.view_as(guess.forward)
            for moved in align(guess.forward.flatten(0, 1), guess.backward.flatten(0, 1), times)
        )
    still = keyframe[:, None].expand_as(guess.forward)
    ending = still if next_keyframe is None else next_keyframe[:, None].expand_as(still)
    before = guess.forward if previous_frame is None else _from_before(previous_frame, vectors, window)
    candidates = torch.stack((guess.forward, guess.backward, first, second, still, ending, before), dim=2)

    trust = guess.forward_confidence
    presence = (next_keyframe is not None, previous_frame is not None)
    times = near.view(1, -1, 1, 1, 1).expand_as(trust)
    height, width = keyframe.shape[-2:]
    eighths = trust.new_tensor((width / 8, height / 8)).view(2, 1, 1)
    motion = resize(vectors[:, window], height, width).movedim(-1, 2) * eighths
    flags = [torch.full_like(trust, float(there)) for there in presence]
    maps = torch.cat((trust, guess.backward_confidence, times, *flags, motion), dim=2)
    return Evidence(guess.pictures, candidates, maps)


def _from_before(previous_frame: Tensor, vectors: Tensor, window: slice) -> Tensor:
    """The frame before the keyframe, warped: it may show what the keyframe hides. [B, T, 3, H, W]."""
    fine = refine(vectors, *previous_frame.shape[-2:])
    steps = [follow(displacement, fine[:, 0]) for displacement in compose(fine)[:, window].unbind(1)]
    return warp(previous_frame, torch.stack(steps, dim=1))
