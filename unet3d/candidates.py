"""Motion candidates: the pictures that each frame of a clip is mixed from, and their weights before any network.

Candidates are both keyframes warped along the motion, held still, moved by the global motion alone, and warped along
dilated motion (coded motion often ends inside the outlines of what moves). `make_candidates` gathers all that keyframes
and motion say about a clip's frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_vq.fields import cell_centres
from motion_vq.global_motion import robust_fit
from unet3d.resampling import enlarge_bilinear, enlarge_vectors_bilinear, read_bicubic, resize_fields_bicubic
from unet3d.warping import ALL_FRAMES, nearness, sample_frames, warp_bidirectional, warp_forward

CANDIDATES = (
    "forward",
    "backward",
    "keyframe",
    "next_keyframe",
    "global_motion",
    "next_global_motion",
    "dilated",
    "next_dilated",
)
"""Names of the candidates: of each kind the one from the clip's keyframe, then the one from the next keyframe."""
MAPS = ("forward_confidence", "backward_confidence", "nearness", "has_next", "back_x", "back_y", "next_x", "next_y")
"""Names of the maps; the last four are displacements to both keyframes, in units of 16 pixels."""

STILL_WEIGHT, GLOBAL_MOTION_WEIGHT = 0.03, 0.03
"""Of a keyframe held still and of one moved by the global motion alone, where its warp has 1: where motion cannot be
trusted, none is better (+0.1 dB)."""
STILL_WEIGHT_FORWARD, GLOBAL_MOTION_WEIGHT_FORWARD = 0.002, 0.01
"""The same without a next keyframe: there more costs up to 2 dB where the camera moves."""
DILATED_WEIGHT = 0.1
"""Of a keyframe warped along dilated motion, where its warp has 1."""

GLOBAL_FIT_SCALES = (8 / 256, 0.25 / 256)
"""First and last scale of the global motion's fit, in fractions of the frame: larger errors count as other motion."""
STILL_CAMERA = 0.05 / 256
"""Global motion that moves no corner of the frame by more than this in a step is taken as none."""
DILATION_CELLS = 2
"""Motion is dilated on a grid with so many cells along each side of a cell of the field."""
DILATION_RADIUS = 2
"""How far moving content is dilated, in cells of that grid: one cell of the field."""


Pair = tuple[Tensor, Tensor]
"""Pictures [B, T, 3, H, W] from the clip's keyframe, and the same from the next one."""


@dataclass(frozen=True)
class MotionCandidates:
    """What keyframes and motion say about the frames of a clip."""

    prior: Tensor
    """[B, T, 3, H, W] in [-1, 1]: candidates mixed by their weights, the best frames without a network."""
    pictures: Tensor
    """[B, T, len(CANDIDATES), 3, H, W]; without a next keyframe the first one stands in for it."""
    weights: Tensor
    """[B, T, len(CANDIDATES), H, W]: of each candidate in the prior; the sum is 1, and a stand-in has 0."""
    maps: Tensor
    """[B, T, len(MAPS), H, W]."""
    grids: Tensor
    """[B, T, 2, H, W, 2]: sampling grids of the two warps."""
    keyframes: Tensor
    """[B, 2, 3, h, w]: this clip's and the next one's, whole: these are not cropped or padded with the rest."""

    def crop(self, rows: slice, columns: slice) -> "MotionCandidates":
        """Return a part of every frame."""
        return self._map(lambda values: values[..., rows, columns])

    def pad_to_multiple(self, multiple: int) -> "MotionCandidates":
        """Replicate the right and lower border until the sides are multiples of `multiple`."""
        height, width = self.prior.shape[-2:]
        padding = (0, -width % multiple, 0, -height % multiple)
        if not any(padding):
            return self
        return self._map(
            lambda values: F.pad(values.flatten(0, -4), padding, mode="replicate").unflatten(0, values.shape[:-3])
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "MotionCandidates":
        """Change every tensor but the keyframes, as [..., C, H, W]."""
        changed = {part.name: change(getattr(self, part.name)) for part in fields(self)[:4]}
        return replace(self, **changed, grids=change(self.grids.movedim(-1, -3)).movedim(-3, -1))


def split_frames(values: Tensor, stride: int) -> Tensor:
    """Split each clip into `stride` clips of every `stride`-th frame.

    [B, T, ...] -> [B * stride, ceil(T / stride), ...]. The first clip has frames 0, stride, 2 stride, the second 1,
    stride + 1, and so on. The last frame is repeated where there are too few.
    """
    missing = -values.shape[1] % stride
    if missing:
        values = torch.cat((values, values[:, -1:].expand(-1, missing, *values.shape[2:])), dim=1)
    return values.unflatten(1, (-1, stride)).transpose(1, 2).flatten(0, 1)


def merge_frames(values: Tensor, stride: int, steps: int) -> Tensor:
    """Undo `split_frames`: [B * stride, ceil(steps / stride), ...] -> [B, steps, ...]."""
    return values.unflatten(0, (-1, stride)).transpose(1, 2).flatten(1, 2)[:, :steps]


def check_picture(name: str, picture: Tensor, keyframe: Tensor) -> None:
    """Check that a picture has the keyframe's shape.

    Raises:
        ValueError: it has not.
    """
    if picture.shape != keyframe.shape:
        raise ValueError(f"`{name}` must be {tuple(keyframe.shape)} like `keyframe`, got {tuple(picture.shape)}")


@torch.no_grad()
def make_candidates(
    keyframe: Tensor,
    vectors: Tensor,
    *,
    next_keyframe: Tensor | None = None,
    next_vectors: Tensor | None = None,
    window: slice = ALL_FRAMES,
    bicubic_mix: float = 0.0,
) -> MotionCandidates:
    """Make the candidates of a clip's frames from its keyframes and motion; no gradients reach these.

    Args:
        keyframe: [B, 3, H, W] in [-1, 1], frame 0.
        vectors: [B, T, h, w, 2], the clip's field (`codec.types.MotionField`).
        next_keyframe: like `keyframe`, the next clip's, where there is one.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field; comes with `next_keyframe`.
        window: frames to return.
        bicubic_mix: how keyframes are read along global and dilated motion, see `sample_keyframes`.

    Raises:
        ValueError: one of `next_keyframe` and `next_vectors` without the other; tensors that do not fit together.
    """
    _check_inputs(keyframe, vectors, next_keyframe, next_vectors)
    if next_keyframe is None or next_vectors is None:
        warped, ending = warp_forward(keyframe, vectors, window, resize_fields_bicubic), keyframe
    else:
        ending = next_keyframe
        warped = warp_bidirectional(keyframe, vectors, ending, next_vectors, window, resize_fields_bicubic)
    grids = torch.stack((warped.forward_grid, warped.backward_grid), dim=2)
    keyframes = torch.stack((keyframe, ending), dim=1)
    global_grids = global_motion_grids(keyframe, vectors, next_vectors, window)
    field_size = (vectors.shape[2], vectors.shape[3])
    dilated_grids = dilate_motion(grids.flatten(1, 2), global_grids.flatten(1, 2), field_size).view_as(grids)
    # each candidate is written to its place: a second copy of all would be a hundred megabytes
    pictures = keyframe.new_empty(*grids.shape[:2], len(CANDIDATES), *keyframe.shape[1:])
    warps, stills, moved, dilated = (
        (pictures[:, :, first], pictures[:, :, first + 1]) for first in range(0, len(CANDIDATES), 2)
    )
    fill_outside((warped.forward, warped.backward), grids, keyframe, out=warps)
    for still, picture in zip(stills, (keyframe, ending), strict=True):
        still.copy_(picture[:, None].expand_as(still))
    sample_keyframes(keyframes, global_grids, bicubic_mix, out=moved)
    sample_keyframes(keyframes, dilated_grids, bicubic_mix, out=dilated)

    has_next = float(next_keyframe is not None)
    confidence = smooth_confidence(warped.forward_confidence)
    next_confidence = smooth_confidence(warped.backward_confidence)
    near = nearness(vectors.shape[1], keyframe)[window].view(1, -1, 1, 1)
    weights = _prior_weights(confidence, next_confidence, near, has_next)
    near = near.expand_as(confidence)
    height, width = keyframe.shape[-2:]
    units = grids.new_tensor((width / 16, height / 16))
    motion = ((grids - cell_centres(height, width, keyframe)) * units).permute(0, 1, 2, 5, 3, 4).flatten(2, 3)
    scalars = torch.stack((confidence, next_confidence, near, torch.full_like(near, has_next)), dim=2)
    return MotionCandidates(
        prior=weighted_sum(pictures.unbind(2), weights),
        pictures=pictures,
        weights=weights,
        maps=torch.cat((scalars, motion), dim=2),
        grids=grids,
        keyframes=keyframes,
    )


def weighted_sum(pictures: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Add up pictures [B, T, 3, H, W] with weights [B, T, len(pictures), H, W]: [B, T, 3, H, W].

    One after another: all of them times their weights would be a tensor of a hundred megabytes.
    """
    total = pictures[0] * weights[:, :, 0, None]
    for number, picture in enumerate(pictures[1:], 1):
        total.addcmul_(picture, weights[:, :, number, None])
    return total


def shift_warps(candidates: MotionCandidates, shifts: Tensor, bicubic_mix: float = 0.0) -> Tensor:
    """Read both warps at shifted positions: [B, T, 2, 3, H, W].

    Args:
        shifts: [B, T, 2, H, W, 2], added to the sampling grids, in fractions of the frame.
        bicubic_mix: see `sample_keyframes`.
    """
    return torch.stack(sample_keyframes(candidates.keyframes, candidates.grids + shifts, bicubic_mix), dim=2)


def sample_keyframes(keyframes: Tensor, grids: Tensor, bicubic_mix: float = 0.0, out: Pair | None = None) -> Pair:
    """Read keyframes [B, 2, 3, h, w] through sampling grids [B, T, 2, H, W, 2]: two [B, T, 3, H, W].

    Args:
        bicubic_mix: 0 interpolates bilinearly, which blurs; 1 bicubically, which does not; a value between mixes both.
        out: where the pictures are written, without gradients; None: to new ones.
    """

    def read(index: int) -> Tensor:
        keyframe, grid = keyframes[:, index], grids[:, :, index]
        if bicubic_mix == 1:  # the same as mixing, without the bilinear read
            return read_bicubic(keyframe, grid)
        picture = sample_frames(keyframe, grid)
        return picture.lerp(read_bicubic(keyframe, grid), bicubic_mix) if bicubic_mix else picture

    return fill_outside((read(0), read(1)), grids, keyframes, out)


def fill_outside(pictures: Pair, grids: Tensor, keyframes: Tensor, out: Pair | None = None) -> Pair:
    """Replace what lies outside one keyframe and inside the other by that other, in a pair of pictures.

    Outside a keyframe stands its replicated border. Those of its warp and of its global motion agree with each other,
    which looks trustworthy: a pan lost 1.2 dB by it.

    Args:
        pictures: [B, T, 3, H, W] each, read from both keyframes.
        grids: [B, T, 2, H, W, 2], their sampling grids.
        keyframes: [..., h, w].
        out: see `sample_keyframes`.
    """
    least, most = grids.aminmax()
    if least >= 0 and most <= 1:
        return pictures if out is None else (out[0].copy_(pictures[0]), out[1].copy_(pictures[1]))
    height, width = keyframes.shape[-2:]
    # 1 - `inside_frame`, in fewer passes over the positions
    x, y = (grids - 0.5).abs_().unbind(-1)
    outside = torch.maximum((x - 0.5).mul_(width), (y - 0.5).mul_(height)).clamp_(0, 1)
    first_outside, second_outside = outside.split(1, dim=2)
    first, second = pictures
    to_first, to_second = out or (None, None)
    filled = torch.lerp(first, second, first_outside * (1 - second_outside), out=to_first)
    return filled, torch.lerp(second, first, second_outside * (1 - first_outside), out=to_second)


def luma(pictures: Tensor) -> Tensor:
    """Return the luma (Rec. 601) of pictures [..., 3, H, W]: [..., H, W]."""
    red, green, blue = pictures.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def average_pool(values: Tensor, patch: int) -> Tensor:
    """Return the means of patches: [B, T, C, H, W] -> [B, T, C, H / patch, W / patch].

    By halves as long as that is possible: four times as fast as torch's pooling on a CPU.
    """
    while patch % 2 == 0:
        rows = values[..., 0::2, :] + values[..., 1::2, :]
        values, patch = (rows[..., 0::2] + rows[..., 1::2]) / 4, patch // 2
    return values if patch == 1 else F.avg_pool2d(values.flatten(0, 1), patch).unflatten(0, values.shape[:2])


def space_to_depth(values: Tensor, patch: int) -> Tensor:
    """Rearrange patches into channels: [B, T, C, H, W] -> [B, T, C * patch², H / patch, W / patch].

    As one permutation: twice as fast as torch's `pixel_unshuffle` on a CPU.
    """
    patches = values.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return patches.permute(0, 1, 2, 4, 6, 3, 5).flatten(2, 4)


def smooth_confidence(confidence: Tensor) -> Tensor:
    """Average confidences [B, T, 1, H, W] over some ten pixels: [B, T, H, W]. Isolated low values mislead (0.1 dB)."""
    half = F.avg_pool2d(confidence.flatten(0, 1), 2, ceil_mode=True)
    even = F.avg_pool2d(half, 5, stride=1, padding=2, count_include_pad=False)
    fine = enlarge_bilinear(even, *confidence.shape[-2:])
    return fine.unflatten(0, confidence.shape[:2])[:, :, 0]


def dilate_motion(grids: Tensor, global_grids: Tensor, field_size: tuple[int, int]) -> Tensor:
    """Dilate the motion of sampling grids: each pixel takes the strongest motion near it.

    Strength is the length of the motion less the global motion. As the dilation of a mask makes it larger, this makes
    what moves by itself larger.

    Args:
        grids: [B, T, H, W, 2], sampling grids of a keyframe.
        global_grids: the same if nothing moved but the camera.
        field_size: rows and columns of the motion field.

    Returns:
        sampling grids [B, T, H, W, 2].
    """
    # contiguous: pooled in half of the time then
    local = (grids - global_grids).movedim(-1, 2).flatten(0, 1).contiguous()
    small = F.adaptive_avg_pool2d(local, (DILATION_CELLS * field_size[0], DILATION_CELLS * field_size[1]))
    strength = small.square().sum(1, keepdim=True)
    size = 2 * DILATION_RADIUS + 1
    _, strongest = F.max_pool2d(strength, size, stride=1, padding=DILATION_RADIUS, return_indices=True)
    dilated = small.flatten(2).gather(2, strongest.flatten(2).expand(-1, 2, -1)).view_as(small)
    vectors = dilated.movedim(1, -1).unflatten(0, grids.shape[:2])
    return global_grids + enlarge_vectors_bilinear(vectors, *local.shape[-2:])


def global_motion_grids(keyframe: Tensor, vectors: Tensor, next_vectors: Tensor | None, window: slice) -> Tensor:
    """Return the sampling grids of both keyframes if nothing moves but the camera, [B, T, 2, H, W, 2].

    Without `next_vectors` the first keyframe's grid stands twice.
    """
    height, width = keyframe.shape[-2:]
    steps = fit_affine_steps(vectors)
    own = affine_grid(compose_affine(steps)[:, window], height, width)
    if next_vectors is None:
        return torch.stack((own, own), dim=2)
    last = fit_affine_steps(next_vectors[:, :1])[:, 0]
    return torch.stack((own, affine_grid(compose_affine_to_next(steps, last)[:, window], height, width)), dim=2)


def fit_affine_steps(vectors: Tensor) -> Tensor:
    """Fit the global motion of every step: the affine map that most cells agree on (Geman-McClure weights).

    Args:
        vectors: [B, T, h, w, 2], a field (`codec.types.MotionField`).

    Returns:
        maps [B, T, 3, 3] from a point (x, y, 1) of a frame, in fractions, to where its content stood one step before.
    """
    h, w = vectors.shape[2:4]
    centres = cell_centres(h, w, vectors).flatten(0, 1)
    plane = torch.cat((centres - 0.5, torch.ones_like(centres[:, :1])), dim=1)
    motion = vectors.flatten(2, 3)
    ridge = 1e-6 * torch.eye(3, dtype=motion.dtype, device=motion.device)

    def solve(weights: Tensor) -> Tensor:
        weighted = weights[..., None] * plane
        normal = torch.einsum("btnk,nl->btkl", weighted, plane) / len(plane)
        right = torch.einsum("btnk,btnc->btkc", weighted, motion) / len(plane)
        return torch.linalg.solve(normal + ridge, right)

    fit = robust_fit(
        solve,
        lambda fit: (motion - plane @ fit).square().sum(-1),
        lambda errors: (1 + errors).square().reciprocal(),
        torch.ones_like(motion[..., 0]),
        GLOBAL_FIT_SCALES,
    )
    corners = torch.cartesian_prod(*2 * [plane.new_tensor((-0.5, 0.5))])
    largest = (torch.cat((corners, torch.ones_like(corners[:, :1])), dim=1) @ fit).abs().amax((2, 3))
    fit = fit * (largest > STILL_CAMERA)[..., None, None]
    slopes, shift = fit[:, :, :2], fit[:, :, 2]
    maps = torch.eye(3, dtype=fit.dtype, device=fit.device).repeat(*fit.shape[:2], 1, 1)
    maps[:, :, :2, :2] += slopes.mT
    maps[:, :, :2, 2] = shift - slopes.sum(2) / 2
    return maps


def compose_affine(maps: Tensor) -> Tensor:
    """Turn maps of steps [B, T, 3, 3] into those from every frame back to frame 0; slot 0 is not used."""
    composed = [torch.eye(3, dtype=maps.dtype, device=maps.device).expand_as(maps[:, 0])]
    for step in maps.unbind(1)[1:]:
        composed.append(composed[-1] @ step)
    return torch.stack(composed, dim=1)


def compose_affine_to_next(maps: Tensor, last: Tensor) -> Tensor:
    """Turn maps of steps [B, T, 3, 3] into those from every frame to the next keyframe; `last`: the step into it."""
    # all at once: on a GPU each call waits until it is known that there is an inverse
    inverses = torch.linalg.inv(torch.cat((maps[:, 1:], last[:, None]), dim=1)).unbind(1)
    composed = [inverses[-1]]
    for inverse in inverses[-2::-1]:
        composed.append(composed[-1] @ inverse)
    return torch.stack(composed[::-1], dim=1)


def affine_grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the sampling grids [B, T, H, W, 2] of affine maps [B, T, 3, 3]."""
    centres = cell_centres(height, width, maps)
    x, y, ones = maps[:, :, None, None, :2].unbind(-1)
    return x * centres[:1, :, :1] + (y * centres[:, :1, 1:] + ones)


def _prior_weights(confidence: Tensor, next_confidence: Tensor, near: Tensor, has_next: float) -> Tensor:
    """Return the weights [B, T, len(CANDIDATES), H, W] of the prior.

    Args:
        confidence, next_confidence: [B, T, H, W].
        near: [1, T, 1, 1], see `nearness`.
        has_next: 1 where there is a next keyframe, else 0.
    """
    # where neither warp can be trusted, nearness in time decides alone; 1.5 was measured to be best
    early, late = (1 - near) ** 1.5, has_next * near**1.5
    if has_next:
        still, moved = STILL_WEIGHT, GLOBAL_MOTION_WEIGHT
    else:
        still, moved = STILL_WEIGHT_FORWARD, GLOBAL_MOTION_WEIGHT_FORWARD
    own, following = early * (confidence + 1e-3), late * (next_confidence + 1e-3)
    moments = (early * still, late * still, early * moved, late * moved)
    held = (moment.expand_as(confidence) for moment in moments)
    weights = torch.stack((own, following, *held, DILATED_WEIGHT * own, DILATED_WEIGHT * following), dim=2)
    return weights / weights.sum(2, keepdim=True)


def _check_inputs(keyframe: Tensor, vectors: Tensor, next_keyframe: Tensor | None, next_vectors: Tensor | None) -> None:
    if keyframe.ndim != 4 or keyframe.shape[1] != 3:
        raise ValueError(f"`keyframe` must be [B, 3, H, W], got {tuple(keyframe.shape)}")
    if vectors.ndim != 5 or vectors.shape[-1] != 2 or len(vectors) != len(keyframe):
        raise ValueError(f"`vectors` must be [{len(keyframe)}, T, h, w, 2], got {tuple(vectors.shape)}")
    if next_keyframe is not None:
        check_picture("next_keyframe", next_keyframe, keyframe)
    if (next_keyframe is None) != (next_vectors is None):
        missing = "next_vectors" if next_vectors is None else "next_keyframe"
        raise ValueError(f"`{missing}` is missing: give the next clip's keyframe and its vectors, or neither of them")
