"""The camera's motion, and its own few ids.

A camera's motion over a clip is taken as one affine motion a step, its six parameters smooth in time:

    dx(t, x, y) = sum_k phi_k(t) (a_k + b_k x + c_k y)        and the same for dy

with phi the DCT-II basis over the clip's steps and x, y in [-1, 1] over the picture. The translations `a` carry more
temporal coefficients than the slopes `b` and `c`. The fit is robust, so that what moves by itself does not pull it:
iteratively reweighted least squares with Cauchy weights whose scale shrinks (Black & Rangarajan, IJCV 1996). Each
coefficient is companded (signed logarithm) and rounded: one id each. No randomness, nothing learned.
"""

import math

import torch
from torch import Tensor

PIXELS = (256.0, 144.0)
"""Width and height of the picture whose pixels are the unit inside this room: displacement matters in pixels."""

_FIT_STEPS = 8
_FIRST_SCALE_PIXELS = 8.0
_LAST_SCALE_PIXELS = 0.5
_INVALID_WEIGHT = 0.1
_RIDGE = 1e-3
_UNIT_PIXELS = 0.05
_LARGEST_PIXELS = 48.0


def to_pixels(vectors: Tensor) -> Tensor:
    """Fractions of the frame [..., 2] to pixels of a 256x144 picture."""
    return vectors * vectors.new_tensor(PIXELS)


def to_fractions(vectors: Tensor) -> Tensor:
    """Pixels of a 256x144 picture [..., 2] to fractions of the frame."""
    return vectors / vectors.new_tensor(PIXELS)


def compand(values: Tensor, unit: float) -> Tensor:
    """Signed logarithm: linear below `unit`, logarithmic above."""
    return values.sign() * torch.log1p(values.abs() / unit)


def expand(values: Tensor, unit: float) -> Tensor:
    """The inverse of `compand`."""
    return values.sign() * unit * torch.expm1(values.abs())


class GlobalMotionCodec:
    """Fits, codes and renders camera motion.

    `terms`: temporal coefficients of each translation, of each slope in x and of each slope in y. `codebook_size`:
    values of one id; an odd number of them is used, so that the middle one is zero.
    """

    def __init__(
        self, num_steps: int, grid: tuple[int, int], terms: tuple[int, int, int] = (8, 2, 2), codebook_size: int = 256
    ) -> None:
        if len(terms) != 3 or min(terms) < 0 or max(terms) > num_steps:
            raise ValueError(f"`terms` (={terms}) must be three counts from 0 to the clip's {num_steps} steps")
        if codebook_size < 3:
            raise ValueError(f"`codebook_size` (={codebook_size}) must be at least 3: left, still, right")
        self.terms = terms
        self.codebook_size = codebook_size
        self.num_steps, self.grid = num_steps, grid
        self.half = (codebook_size - 1) // 2
        self.step = math.log1p(_LARGEST_PIXELS / _UNIT_PIXELS) / self.half

    @property
    def num_ids(self) -> int:
        """Ids a clip: two components a term."""
        return 2 * sum(self.terms)

    def encode(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Vectors [B, T, h, w, 2] in fractions of the frame and valid bool [B, T, h, w] -> int64 [B, num_ids]."""
        if self.num_ids == 0:
            return torch.zeros(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        coefficients = self.fit(to_pixels(vectors), valid)
        steps = torch.round(compand(coefficients, _UNIT_PIXELS) / self.step)
        return (steps.clamp(-self.half, self.half) + self.half).long().flatten(1)

    def decode(self, global_motion_ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """int64 [B, num_ids] -> vectors [B, T, h, w, 2] in fractions of the frame."""
        if self.num_ids == 0:
            return torch.zeros(
                len(global_motion_ids), self.num_steps, *self.grid, 2, dtype=dtype, device=global_motion_ids.device
            )
        steps = global_motion_ids.to(dtype).clamp(max=2 * self.half) - self.half
        coefficients = expand(steps * self.step, _UNIT_PIXELS).unflatten(1, (-1, 2))
        space, time = self._basis(coefficients)
        return to_fractions(torch.einsum("bkc,kt,kn->btnc", coefficients, time, space).unflatten(2, self.grid))

    def fit(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Coefficients [B, num_ids / 2, 2] in pixels a step, translations first, of vectors in pixels a step."""
        space, time = self._basis(vectors)
        vectors = vectors.flatten(2, 3)
        trust = torch.where(valid, 1.0, _INVALID_WEIGHT).to(vectors.dtype).flatten(2)
        # the products of spatial functions do not change with the weights; 1, x, y give six of them
        plane = self._plane(vectors)
        products = (plane[:, None] * plane[None]).flatten(0, 1)
        function = torch.arange(3).repeat_interleave(torch.tensor(self.terms)).to(vectors.device)
        tiny = torch.eye(len(function), dtype=vectors.dtype, device=vectors.device)
        weights, coefficients = trust, vectors.new_zeros(len(vectors), len(function), 2)
        for number in range(_FIT_STEPS):
            moments = (weights @ products.T).unflatten(-1, (3, 3))
            targets = torch.einsum("btn,btnc,in->btic", weights, vectors, plane)
            normal = torch.einsum("btkl,kt,lt->bkl", moments[:, :, function][..., function], time, time)
            right = torch.einsum("btkc,kt->bkc", targets[:, :, function], time)
            ridge = _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(-1) + 1e-9
            coefficients = torch.linalg.solve(normal + ridge[:, None, None] * tiny, right)
            errors = (vectors - torch.einsum("bkc,kt,kn->btnc", coefficients, time, space)).square().sum(-1)
            progress = number / (_FIT_STEPS - 1)
            scale = _FIRST_SCALE_PIXELS * (_LAST_SCALE_PIXELS / _FIRST_SCALE_PIXELS) ** progress
            weights = trust / (1 + errors / scale**2)
        return coefficients

    def _plane(self, like: Tensor) -> Tensor:
        """1, x, y at every cell's centre: [3, h * w]."""
        height, width = self.grid
        y = (torch.arange(height, dtype=like.dtype, device=like.device) * 2 + 1) / height - 1
        x = (torch.arange(width, dtype=like.dtype, device=like.device) * 2 + 1) / width - 1
        ones = torch.ones(height, width, dtype=like.dtype, device=like.device)
        return torch.stack([ones, x.expand(height, -1), y[:, None].expand(-1, width)]).flatten(1)

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Spatial [K, h * w] and temporal [K, T] function of every coefficient."""
        plane = self._plane(like)
        t = (torch.arange(self.num_steps, dtype=like.dtype, device=like.device) + 0.5) / self.num_steps
        frequency = torch.arange(max(self.terms), dtype=like.dtype, device=like.device)
        cosines = torch.cos(math.pi * frequency[:, None] * t)
        cosines = torch.cat([cosines[:1], cosines[1:] * math.sqrt(2)])
        space = torch.cat([plane[i : i + 1].expand(count, -1) for i, count in enumerate(self.terms)])
        time = torch.cat([cosines[:count] for count in self.terms])
        return space, time
