"""Global motion (that of the camera): a robust fit of affine motion to a clip, and its few ids."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from motion_vq.fields import compand, expand, to_fractions, to_pixels

_FIT_ROUNDS = 8
_SCALES_PIXELS = (8.0, 0.5)
_INVALID_WEIGHT = 0.1
_RIDGE = 1e-3
_UNIT_PIXELS = 0.05
_LARGEST_PIXELS = 48.0


def robust_fit(
    solve: Callable[[Tensor], Tensor],
    squared_errors: Callable[[Tensor], Tensor],
    reweight: Callable[[Tensor], Tensor],
    weights: Tensor,
    scales: tuple[float, float],
) -> Tensor:
    """Return coefficients fitted by iteratively reweighted least squares with a shrinking scale.

    What moves independently of the camera does not pull the fit (Black & Rangarajan, IJCV 1996, section 3).

    Args:
        solve: weights -> coefficients of the weighted least squares.
        squared_errors: coefficients -> squared errors, in the shape of `weights`.
        reweight: squared errors over scale² -> new weights.
        weights: of the first solution.
        scales: of the first and the last round, in the unit of the errors; geometric in between.
    """
    first, last = scales
    coefficients = solve(weights)
    for number in range(_FIT_ROUNDS - 1):
        scale = first * (last / first) ** (number / (_FIT_ROUNDS - 1))
        coefficients = solve(reweight(squared_errors(coefficients) / scale**2))
    return coefficients


class GlobalMotionCodec:
    """Fits, encodes and decodes the global motion of clips.

    It is one affine motion per step, whose six parameters are smooth in time:

        dx(t, x, y) = sum_k phi_k(t) (a_k + b_k x + c_k y)        and the same for dy

    with phi the DCT-II basis over the clip's steps and x, y in [-1, 1] over the picture. The translations `a` have more
    temporal coefficients than the slopes `b` and `c`. The fit is robust (Cauchy weights). Each coefficient is companded
    by a signed logarithm and rounded to one id. Nothing is random and nothing is learned.

    Args:
        num_steps, grid: size of the fields, in steps and (rows, columns).
        terms: temporal coefficients of each translation, of each slope in x and of each slope in y.
        codebook_size: values of one id; an odd number of them is used, so that the middle one is zero.

    Raises:
        ValueError: terms that are not three numbers from 0 to `num_steps`; a codebook of fewer than 3 values.
    """

    def __init__(
        self, num_steps: int, grid: tuple[int, int], terms: tuple[int, int, int] = (8, 2, 2), codebook_size: int = 256
    ) -> None:
        if len(terms) != 3 or min(terms) < 0 or max(terms) > num_steps:
            raise ValueError(f"`terms` (={terms}) must be three numbers from 0 to the clip's {num_steps} steps")
        if codebook_size < 3:
            raise ValueError(f"`codebook_size` (={codebook_size}) must be at least 3: negative, zero, positive")
        self.terms = terms
        self.codebook_size = codebook_size
        self.num_steps, self.grid = num_steps, grid
        self.half = (codebook_size - 1) // 2
        self.step = math.log1p(_LARGEST_PIXELS / _UNIT_PIXELS) / self.half

    @property
    def num_ids(self) -> int:
        """Ids of a clip: two (x and y) for each term."""
        return 2 * sum(self.terms)

    def encode(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Return the ids int64 [B, num_ids] of fields.

        Args:
            vectors: [B, T, h, w, 2] in fractions of the frame.
            valid: bool [B, T, h, w], which cells have a vector.
        """
        if self.num_ids == 0:
            return torch.zeros(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        coefficients = self.fit(to_pixels(vectors), valid)
        steps = torch.round(compand(coefficients, _UNIT_PIXELS) / self.step)
        return (steps.clamp(-self.half, self.half) + self.half).long().flatten(1)

    def decode(self, global_motion_ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the vectors [B, T, h, w, 2], in fractions of the frame, of ids int64 [B, num_ids]."""
        if self.num_ids == 0:
            shape = (len(global_motion_ids), self.num_steps, *self.grid, 2)
            return torch.zeros(shape, dtype=dtype, device=global_motion_ids.device)
        steps = global_motion_ids.to(dtype).clamp(max=2 * self.half) - self.half
        coefficients = expand(steps * self.step, _UNIT_PIXELS).unflatten(1, (-1, 2))
        space, time = self._basis(coefficients)
        return to_fractions(torch.einsum("bkc,kt,kn->btnc", coefficients, time, space).unflatten(2, self.grid))

    def fit(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Return the coefficients [B, num_ids / 2, 2], translations first, of vectors [B, T, h, w, 2] in pixels."""
        space, time = self._basis(vectors)
        vectors = vectors.flatten(2, 3)
        trust = torch.where(valid, 1.0, _INVALID_WEIGHT).to(vectors.dtype).flatten(2)
        # the products of the spatial functions 1, x, y do not change with the weights
        plane = self._plane(vectors)
        products = (plane[:, None] * plane[None]).flatten(0, 1)
        function = torch.arange(3).repeat_interleave(torch.tensor(self.terms)).to(vectors.device)
        identity = torch.eye(len(function), dtype=vectors.dtype, device=vectors.device)

        def solve(weights: Tensor) -> Tensor:
            moments = (weights @ products.T).unflatten(-1, (3, 3))
            targets = torch.einsum("btn,btnc,in->btic", weights, vectors, plane)
            normal = torch.einsum("btkl,kt,lt->bkl", moments[:, :, function][..., function], time, time)
            right = torch.einsum("btkc,kt->bkc", targets[:, :, function], time)
            ridge = _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(-1) + 1e-9
            return torch.linalg.solve(normal + ridge[:, None, None] * identity, right)

        def squared_errors(coefficients: Tensor) -> Tensor:
            return (vectors - torch.einsum("bkc,kt,kn->btnc", coefficients, time, space)).square().sum(-1)

        return robust_fit(solve, squared_errors, lambda errors: trust / (1 + errors), trust, _SCALES_PIXELS)

    def _plane(self, like: Tensor) -> Tensor:
        """Return 1, x and y at every cell's centre, [3, h * w]."""
        height, width = self.grid
        y = (torch.arange(height, dtype=like.dtype, device=like.device) * 2 + 1) / height - 1
        x = (torch.arange(width, dtype=like.dtype, device=like.device) * 2 + 1) / width - 1
        ones = torch.ones(height, width, dtype=like.dtype, device=like.device)
        return torch.stack([ones, x.expand(height, -1), y[:, None].expand(-1, width)]).flatten(1)

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spatial [K, h * w] and the temporal [K, T] function of every coefficient."""
        plane = self._plane(like)
        t = (torch.arange(self.num_steps, dtype=like.dtype, device=like.device) + 0.5) / self.num_steps
        frequency = torch.arange(max(self.terms), dtype=like.dtype, device=like.device)
        cosines = torch.cos(math.pi * frequency[:, None] * t)
        cosines = torch.cat([cosines[:1], cosines[1:] * math.sqrt(2)])
        space = torch.cat([plane[i : i + 1].expand(count, -1) for i, count in enumerate(self.terms)])
        time = torch.cat([cosines[:count] for count in self.terms])
        return space, time
