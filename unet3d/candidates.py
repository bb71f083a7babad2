"""The camera's share of a motion field: keyframes as they would look if nothing moved but the camera.

Growth: coded motion ends short of the outlines of what moves; here what moves by itself reaches further.

Evidence: all that keyframes and motion tell of a clip's frames, gathered before the network looks at it.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warping import EVERY_FRAME, bidirectional, cell_centres, inside, nearness, one_way, read

FIT_STEPS = 8
FIRST_SCALE, LAST_SCALE = 8 / 256, 0.25 / 256
"""Of what counts as moving by itself, in fractions of the frame; it shrinks from step to step."""
STANDS_STILL = 0.05 / 256
"""A camera that moves no corner of the frame by more than this in a step stands still."""


def global_motion_steps(vectors: Tensor) -> Tensor:
    """Every step's camera motion, an affine map that most of the cells agree on.

    Iteratively reweighted least squares with Geman-McClure weights whose scale shrinks (Black & Rangarajan, IJCV 1996,
    section 3): what moves by itself does not pull it.

    Args:
        vectors: [B, T, h, w, 2], a field (`codec.types.MotionField`).

    Returns:
        [B, T, 3, 3]: from a point (x, y, 1) of a frame, in fractions, to where its content stood one step before.
    """
    h, w = vectors.shape[2:4]
    centres = cell_centres(h, w, vectors).flatten(0, 1)
    plane = torch.cat((centres - 0.5, torch.ones_like(centres[:, :1])), dim=1)
    motion = vectors.flatten(2, 3)
    tiny = 1e-6 * torch.eye(3, dtype=motion.dtype, device=motion.device)
    weights, fit = torch.ones_like(motion[..., 0]), motion.new_zeros(*motion.shape[:2], 3, 2)
    for step in range(FIT_STEPS):
        weighted = weights[..., None] * plane
        normal = torch.einsum("btnk,nl->btkl", weighted, plane) / len(plane)
        right = torch.einsum("btnk,btnc->btkc", weighted, motion) / len(plane)
        fit = torch.linalg.solve(normal + tiny, right)
        scale = FIRST_SCALE * (LAST_SCALE / FIRST_SCALE) ** (step / (FIT_STEPS - 1))
        errors = (motion - plane @ fit).square().sum(-1) / scale**2
        weights = (1 + errors).square().reciprocal()
    corners = torch.cartesian_prod(*2 * [plane.new_tensor((-0.5, 0.5))])
    reach = (torch.cat((corners, torch.ones_like(corners[:, :1])), dim=1) @ fit).abs().amax((2, 3))
    fit = fit * (reach > STANDS_STILL)[..., None, None]
    slopes, shift = fit[:, :, :2], fit[:, :, 2]
    maps = torch.eye(3, dtype=fit.dtype, device=fit.device).repeat(*fit.shape[:2], 1, 1)
    maps[:, :, :2, :2] += slopes.mT
    maps[:, :, :2, 2] = shift - slopes.sum(2) / 2
    return maps


def global_motion_grids(maps: Tensor, height: int, width: int) -> Tensor:
    """Where pixels are read through maps [B, T, 3, 3] of points: [B, T, H, W, 2]."""
    centres = cell_centres(height, width, maps)
    return centres @ maps[:, :, None, :2, :2].mT + maps[:, :, None, None, :2, 2]


def back(maps: Tensor) -> Tensor:
    """Maps of steps [B, T, 3, 3] to those from every frame back to frame 0; slot 0 is not used."""
    whole = [torch.eye(3, dtype=maps.dtype, device=maps.device).expand_as(maps[:, 0])]
    for step in maps.unbind(1)[1:]:
        whole.append(whole[-1] @ step)
    return torch.stack(whole, dim=1)


def onward(maps: Tensor, last: Tensor) -> Tensor:
    """Maps of steps [B, T, 3, 3], and of the one into the next keyframe [B, 3, 3], to those from every frame to it."""
    whole = [torch.linalg.inv(last)]
    for step in maps.unbind(1)[:0:-1]:
        whole.append(whole[-1] @ torch.linalg.inv(step))
    return torch.stack(whole[::-1], dim=1)


FINER = 2
"""Cells of the grid that growth is found on, along each side of a cell of the field."""
REACH = 2
"""Of those, how far what moves reaches over what does not: a cell of the field."""


def dilate_motion(places: Tensor, camera: Tensor, grid: tuple[int, int]) -> Tensor:
    """Places read as the strongest motion near them says.

    Of all motion within reach, less the camera's, the largest: a dilation, as of a mask, of the field.

    Args:
        places: [B, T, H, W, 2], where a keyframe is read.
        camera: like `places`, where it would be read if nothing moved but the camera.
        grid: rows and columns of the field.

    Returns:
        [B, T, H, W, 2].
    """
    own = (places - camera).movedim(-1, 2).flatten(0, 1)
    small = F.adaptive_avg_pool2d(own, (FINER * grid[0], FINER * grid[1]))
    amount = small.square().sum(1, keepdim=True)
    _, strongest = F.max_pool2d(amount, 2 * REACH + 1, stride=1, padding=REACH, return_indices=True)
    taken = small.flatten(2).gather(2, strongest.flatten(2).expand(-1, 2, -1)).view_as(small)
    fine = F.interpolate(taken, own.shape[-2:], mode="bilinear", align_corners=False)
    return camera + fine.unflatten(0, places.shape[:2]).movedim(2, -1)


CANDIDATES = (
    "forward",
    "backward",
    "keyframe",
    "next_keyframe",
    "camera",
    "next_camera",
    "dilate_motion",
    "next_grown",
)
"""Pictures that a frame is mixed from: both keyframes warped, both held still, both moved by the camera alone, and both
warped along motion that has dilate_motion (`growth.dilate_motion`)."""
MAPS = ("forward_confidence", "backward_confidence", "nearness", "has_next", "back_x", "back_y", "onward_x", "onward_y")
"""Figures of every pixel; the last four are displacements to both keyframes, in pixels, divided by 16."""
STILL_SHARE, CAMERA_SHARE = 0.03, 0.03
"""Of a keyframe held still, and moved by the camera alone, where its warp has 1: where motion cannot be trusted, rather
none (+0.1 dB)."""
GROWN_SHARE = 0.1
"""Of dilate_motion motion, where the warp has 1."""
STILL_SHARE_ALONE, CAMERA_SHARE_ALONE = 0.002, 0.01
"""The same without a next keyframe: there more costs up to 2 dB where the camera moves."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the frames of a clip."""

    prior: Tensor
    """[B, T, 3, H, W] in [-1, 1]: the best guess without a network, candidates mixed by their shares."""
    candidates: Tensor
    """[B, T, len(CANDIDATES), 3, H, W]; without a next keyframe the first one's stand in for its own."""
    shares: Tensor
    """[B, T, len(CANDIDATES), H, W]: how the prior is mixed; they add up to 1, and are 0 for a stand-in."""
    maps: Tensor
    """[B, T, len(MAPS), H, W]."""
    places: Tensor
    """[B, T, 2, H, W, 2]: where the two warps were read, as (x, y) in fractions of the keyframes."""
    keyframes: Tensor
    """[B, 2, 3, h, w]: this clip's and the next one's, whole: these are not cut or padded with the rest."""

    def cut(self, rows: slice, columns: slice) -> "Evidence":
        """A part of every frame."""
        return self._each(lambda values: values[..., rows, columns])

    def padded(self, multiple: int) -> "Evidence":
        """Grown to the right and below by its border, to sides that are multiples of `multiple`."""
        height, width = self.prior.shape[-2:]
        grow = (0, -width % multiple, 0, -height % multiple)
        if not any(grow):
            return self
        return self._each(
            lambda values: F.pad(values.flatten(0, -4), grow, mode="replicate").unflatten(0, values.shape[:-3])
        )

    def apart(self, stride: int) -> "Evidence":
        """Every so many-th frame as a clip of its own; see `apart`."""
        changed = {part.name: apart(getattr(self, part.name), stride) for part in fields(self)[:-1]}
        return Evidence(**changed, keyframes=self.keyframes.repeat_interleave(stride, dim=0))

    def _each(self, change) -> "Evidence":
        changed = {part.name: change(getattr(self, part.name)) for part in fields(self)[:4]}
        return replace(self, **changed, places=change(self.places.movedim(-1, -3)).movedim(-3, -1))


def apart(values: Tensor, stride: int) -> Tensor:
    """[B, T, ...] to [B * stride, T / stride, ...], rounded up: frames 0, stride, … of a clip, then 1, stride + 1, …"""
    missing = -values.shape[1] % stride
    if missing:
        values = torch.cat((values, values[:, -1:].expand(-1, missing, *values.shape[2:])), dim=1)
    return values.unflatten(1, (-1, stride)).transpose(1, 2).flatten(0, 1)


def together(values: Tensor, stride: int, steps: int) -> Tensor:
    """Undoes `apart`: [B * stride, …] to [B, steps, …]."""
    return values.unflatten(0, (-1, stride)).transpose(1, 2).flatten(1, 2)[:, :steps]


def check_picture(name: str, picture: Tensor, keyframe: Tensor) -> None:
    """Refuses a picture that is not like the keyframe."""
    if picture.shape != keyframe.shape:
        raise ValueError(f"`{name}` must be {tuple(keyframe.shape)} like `keyframe`, got {tuple(picture.shape)}")


def gather(
    keyframe: Tensor,
    vectors: Tensor,
    *,
    next_keyframe: Tensor | None = None,
    next_vectors: Tensor | None = None,
    window: slice = EVERY_FRAME,
    bicubic_mix: float = 0.0,
) -> Evidence:
    """Warps keyframes along the motion.

    Args:
        keyframe: [B, 3, H, W] in [-1, 1], frame 0.
        vectors: [B, T, h, w, 2], the clip's field (`codec.types.MotionField`).
        next_keyframe: like `keyframe`, the next clip's, where there is one.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field; must come with `next_keyframe`.
        window: frames that are wanted.
        bicubic_mix: of how keyframes are read along camera's and dilate_motion motion, see `seen`.

    Raises:
        ValueError: one of `next_keyframe` and `next_vectors` without the other; tensors that do not fit together.
    """
    if keyframe.ndim != 4 or keyframe.shape[1] != 3:
        raise ValueError(f"`keyframe` must be [B, 3, H, W], got {tuple(keyframe.shape)}")
    if vectors.ndim != 5 or vectors.shape[-1] != 2 or len(vectors) != len(keyframe):
        raise ValueError(f"`vectors` must be [{len(keyframe)}, T, h, w, 2], got {tuple(vectors.shape)}")
    if next_keyframe is not None:
        check_picture("next_keyframe", next_keyframe, keyframe)
    if (next_keyframe is None) != (next_vectors is None):
        missing = "next_vectors" if next_vectors is None else "next_keyframe"
        raise ValueError(f"`{missing}` is missing: give the next clip's keyframe and its vectors, or neither of them")
    if next_keyframe is None or next_vectors is None:
        guess, ending = one_way(keyframe, vectors, window), keyframe
    else:
        guess, ending = bidirectional(keyframe, vectors, next_keyframe, next_vectors, window), next_keyframe
    places = torch.stack((guess.forward_places, guess.backward_places), dim=2)
    ends = torch.stack((keyframe, ending), dim=1)
    along = camera_alone(keyframe, vectors, next_vectors, window)
    further = dilate_motion(places.flatten(1, 2), along.flatten(1, 2), vectors.shape[2:4]).view_as(places)
    warps = either_shown(torch.stack((guess.forward, guess.backward), dim=2), places, keyframe)
    stills = ends[:, None].expand_as(warps)
    candidates = torch.cat((warps, stills, seen(ends, along, bicubic_mix), seen(ends, further, bicubic_mix)), dim=2)

    there = float(next_keyframe is not None)
    trust, next_trust = feathered_mask(guess.forward_confidence), feathered_mask(guess.backward_confidence)
    near = nearness(vectors.shape[1], keyframe)[window].view(1, -1, 1, 1).expand_as(trust)
    # where neither side can be trusted, nearness in time decides alone; 1.5 was measured to be best
    early, late = (1 - near) ** 1.5, there * near**1.5
    still, camera = (STILL_SHARE, CAMERA_SHARE) if there else (STILL_SHARE_ALONE, CAMERA_SHARE_ALONE)
    shares = torch.stack(
        (
            early * (trust + 1e-3),
            late * (next_trust + 1e-3),
            early * still,
            late * still,
            early * camera,
            late * camera,
            early * GROWN_SHARE * (trust + 1e-3),
            late * GROWN_SHARE * (next_trust + 1e-3),
        ),
        dim=2,
    )
    shares = shares / shares.sum(2, keepdim=True)

    height, width = keyframe.shape[-2:]
    sixteenths = places.new_tensor((width / 16, height / 16))
    motion = ((places - cell_centres(height, width, keyframe)) * sixteenths).permute(0, 1, 2, 5, 3, 4).flatten(2, 3)
    figures = torch.stack((trust, next_trust, near, torch.full_like(near, there)), dim=2)
    return Evidence(
        prior=(candidates * shares[:, :, :, None]).sum(2),
        candidates=candidates,
        shares=shares,
        maps=torch.cat((figures, motion), dim=2),
        places=places,
        keyframes=ends,
    )


def camera_alone(keyframe: Tensor, vectors: Tensor, next_vectors: Tensor | None, window: slice) -> Tensor:
    """Where both keyframes are read if nothing moves but the camera, [B, T, 2, H, W, 2]; twice the first's without
    a next one."""
    height, width = keyframe.shape[-2:]
    steps = global_motion_steps(vectors)
    own = global_motion_grids(back(steps)[:, window], height, width)
    if next_vectors is None:
        return torch.stack((own, own), dim=2)
    last = global_motion_steps(next_vectors[:, :1])[:, 0]
    return torch.stack((own, global_motion_grids(onward(steps, last)[:, window], height, width)), dim=2)


def seen(keyframes: Tensor, places: Tensor, bicubic_mix: float = 0.0) -> Tensor:
    """Keyframes [B, 2, 3, h, w] read at places [B, T, 2, H, W, 2]: [B, T, 2, 3, H, W]; see `either_shown`.

    `bicubic_mix`: 0 reads bilinearly, which blurs; 1 bicubically, which does not; between, between.
    """

    def read_out(mode: str) -> Tensor:
        return torch.stack([read(keyframes[:, index], places[:, :, index], mode) for index in (0, 1)], dim=2)

    pictures = read_out("bilinear")
    if bicubic_mix:
        pictures = pictures.lerp(read_out("bicubic"), bicubic_mix)
    return either_shown(pictures, places, keyframes)


def either_shown(pictures: Tensor, places: Tensor, keyframes: Tensor) -> Tensor:
    """Both keyframes, seen from a frame, where one of them does not show a place and the other does: that other.

    What lies beyond a keyframe's border is a smear of the border, and the smears of its warp and of the camera's
    motion agree with each other, which looks like evidence (a pan lost 1.2 dB by it).

    Args:
        pictures: [B, T, 2, 3, H, W].
        places: [B, T, 2, H, W, 2], where they were read.
        keyframes: [..., h, w].
    """
    height, width = keyframes.shape[-2:]
    shown = inside(places, places.new_tensor((1 / width, 1 / height)))[..., 0]
    # of each, how much of it is to come from the other
    lent = ((1 - shown) * shown.flip(2))[:, :, :, None]
    return pictures.lerp(pictures.flip(2), lent)


def feathered_mask(trust: Tensor) -> Tensor:
    """Confidences [B, T, 1, H, W], averaged over some ten pixels: [B, T, H, W]; specks of doubt mislead (0.1 dB)."""
    half = F.avg_pool2d(trust.flatten(0, 1), 2, ceil_mode=True)
    even = F.avg_pool2d(half, 5, stride=1, padding=2, count_include_pad=False)
    fine = F.interpolate(even, trust.shape[-2:], mode="bilinear", align_corners=False)
    return fine.unflatten(0, trust.shape[:2])[:, :, 0]


def warped(evidence: Evidence, shifts: Tensor, bicubic_mix: float = 0.0) -> Tensor:
    """Both warps, read a little elsewhere.

    Args:
        shifts: [B, T, 2, H, W, 2], added to where they were read, in fractions of the frame.
        bicubic_mix: see `seen`.

    Returns:
        [B, T, 2, 3, H, W].
    """
    return seen(evidence.keyframes, evidence.places + shifts, bicubic_mix)
