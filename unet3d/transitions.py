"""Clips that the network was not trained for: cuts, dissolves, fades, changes of light. Recognised from the keyframes.

There the network makes worse frames than it was given (clips made for a test: up to 2.3 dB in a fade, 1.0 in a
dissolve, 0.9 in a pan in changing light, and a grid in fades). Both keyframes, moved to the same time, tell such clips:

    they do not correlate       motion does not lead from one to the other: each is moved as the camera alone moved,
                                and they are cross-faded half-way in time
    they differ mostly in       the light changed: both warps are right in all but their light, which lies between
    contrast and brightness     theirs, so that they are cross-faded
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from unet3d.candidates import CANDIDATES, MAPS, MotionCandidates, luma

CORRELATED = (0.5, 0.65)
"""Correlation up to which a clip is not one scene, and from which on it is. Of 22 clips of real footage 20 have 0.70 to
0.99, one with a cut has 0.50, one with a fade from black 0; clips made with cuts, dissolves and fades -0.3 to 0.46."""
SAME_LIGHT = (0.5, 0.7)
"""Share of the difference that contrast and brightness do not explain, up to which the light changed, and from which on
it did not. Real footage: 0.8 and more; clips made with changing light: 0.3."""
VISIBLE_LIGHT = (0.06, 0.12)
"""Mean difference, pictures in [-1, 1], up to which a change of light is nothing, and from which on it counts."""
COMPARED_STEPS = 4
"""Keyframes are compared at every so manyth frame."""
CELL = 8
"""Pixels along each side whose mean is compared: coarse, since keyframes decoded from tokens differ in detail."""
NOISE_VARIANCE = 1e-3
"""Variance of the luma, pictures in [-1, 1], which says nothing: pictures as plain as this correlate with none."""
CROSS_FADE_SHARE = 0.5
"""Share of a clip's time, in its middle, in which keyframes that do not correlate are cross-faded. When the cut was
cannot be known; a cut at once is wrong for longer, and a cross-fade of the whole clip shows both all the time."""
NEARNESS = MAPS.index("nearness")
FORWARD, BACKWARD = CANDIDATES.index("forward"), CANDIDATES.index("backward")
GLOBAL_MOTION = CANDIDATES.index("global_motion"), CANDIDATES.index("next_global_motion")


@dataclass(frozen=True)
class KeyframeAgreement:
    """How both keyframes agree after they were moved to the same time, means over the frames of each clip."""

    correlation: Tensor
    """[B], -1 to 1: of the four ways to move them (along the motion, not at all, by the global motion, along dilated
    motion) the one in which they agree best."""
    difference: Tensor
    """[B]: mean absolute difference after moving them along the motion, pictures in [-1, 1]."""
    unexplained: Tensor
    """[B]: share of it that stays when contrast and brightness are made equal; above 1 if that makes it larger."""

    @property
    def scene_share(self) -> Tensor:
        """How sure it is that the clip is one scene: [B], 0 (not at all) to 1."""
        return _ramp(self.correlation, CORRELATED)

    @property
    def light_share(self) -> Tensor:
        """How sure it is that the light changes: [B], 0 (not at all) to 1."""
        return (1 - _ramp(self.unexplained, SAME_LIGHT)) * _ramp(self.difference, VISIBLE_LIGHT)


def compare_keyframes(candidates: MotionCandidates) -> KeyframeAgreement:
    """Compare the keyframes of clips that have two, by the luma of squares of `CELL` pixels."""
    steps = candidates.pictures.shape[1]
    pictures = luma(candidates.pictures[:, min(COMPARED_STEPS // 2, steps - 1) :: COMPARED_STEPS])
    cells = F.avg_pool2d(pictures.flatten(0, 1), min(CELL, *pictures.shape[-2:])).unflatten(0, pictures.shape[:2])
    cells = cells.flatten(3)
    values = cells - cells.mean(3, keepdim=True)
    first, second = values.unflatten(2, (len(CANDIDATES) // 2, 2)).unbind(3)
    product, variance = (first * second).mean(3), first.square().mean(3)
    correlation = product / ((variance * second.square().mean(3)).sqrt() + NOISE_VARIANCE)
    gain = product / (variance + NOISE_VARIANCE)
    unlike = (second - gain[..., None] * first)[:, :, 0].abs().mean((1, 2))
    difference = (cells[:, :, BACKWARD] - cells[:, :, FORWARD]).abs().mean((1, 2))
    return KeyframeAgreement(correlation.mean(1).amax(1), difference, unlike / difference.clamp_min(1e-6))


def replace_transitions(frames: Tensor, candidates: MotionCandidates) -> Tensor:
    """Replace frames [B, T, 3, H, W] of clips with two keyframes where the network is no help; others stay as they are.

    Args:
        frames: what the network made.
        candidates: of the same frames.
    """
    agreement = compare_keyframes(candidates)
    near = candidates.maps[:, :, NEARNESS, None]
    if bool((agreement.light_share > 0).any()):
        faded = candidates.pictures[:, :, FORWARD].lerp(candidates.pictures[:, :, BACKWARD], near)
        frames = frames.lerp(faded, agreement.light_share.view(-1, 1, 1, 1, 1))
    if bool((agreement.scene_share == 1).all()):
        return frames
    before, after = (candidates.pictures[:, :, index] for index in GLOBAL_MOTION)
    cut = before.lerp(after, _ramp(near, ((1 - CROSS_FADE_SHARE) / 2, (1 + CROSS_FADE_SHARE) / 2)))
    return cut.lerp(frames, agreement.scene_share.view(-1, 1, 1, 1, 1))


def _ramp(values: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return ((values - low) / (high - low)).clamp(0, 1)
