"""How many bits tokens take under an adaptive context model: what an arithmetic coder could reach, without training.

The code length is the ideal one, the sum of -log2 of the probability that a model gives each id before it sees it. The
models count what came before in the same video and know nothing else:

    ids     order 0: each stream counts its own ids. The shortest counts of several strengths of the prior and of plain
            ids of fixed width; the choice costs a few bits of each stream.
    masks   binary, in the context of the patches to the left and above, and of the same patch in the clip before.
"""

import math
from collections import Counter

import numpy as np

from videotok import VideoTokens

PRIORS = (1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 1024)
"""Counts that every id begins with, tried in turn."""
CHOICE_BITS = math.log2(len(PRIORS) + 1)
"""Bits of the choice between the priors and fixed width."""


def coded_bits(tokens: VideoTokens, grid: tuple[int, int]) -> dict[str, float]:
    """Return the bits of each stream of a video's tokens.

    Args:
        grid: (rows, columns) of the keyframes' patches.

    Returns:
        Stream -> bits, of `visual`, `keep_mask`, `skip_mask`, `global_motion` and `motion_1`, `motion_2`, … for each
        motion quantizer.
    """
    sizes = tokens.codebooks
    streams = {
        "visual": id_bits(tokens.visual_ids, sizes["visual"]),
        "skip_mask": mask_bits(tokens.skip_mask, grid),
        # a skipped patch is never kept: only the others are coded
        "keep_mask": mask_bits(tokens.keep_mask, grid, known=tokens.skip_mask),
        "global_motion": id_bits(tokens.global_motion_ids.ravel(), sizes["global_motion"]),
    }
    for quantizer in range(tokens.num_motion_quantizers):
        ids = tokens.motion_ids[tokens.motion_quantizers > quantizer, quantizer]
        streams[f"motion_{quantizer + 1}"] = id_bits(ids.ravel(), sizes["motion"])
    return streams


def id_bits(ids: np.ndarray, codebook_size: int) -> float:
    """Return the code length of ids 0 to codebook_size - 1 under the adaptive model of order 0."""
    if not len(ids):
        return 0.0
    fixed = len(ids) * math.log2(codebook_size)
    return CHOICE_BITS + min(fixed, *(_adaptive_bits(ids, codebook_size, prior) for prior in PRIORS))


def _adaptive_bits(ids: np.ndarray, codebook_size: int, prior: float) -> float:
    counts: Counter[int] = Counter()
    bits = 0.0
    for total, value in enumerate(ids.tolist()):
        bits -= math.log2((counts[value] + prior) / (total + prior * codebook_size))
        counts[value] += 1
    return bits


def mask_bits(masks: np.ndarray, grid: tuple[int, int], known: np.ndarray | None = None) -> float:
    """Return the code length of masks under the adaptive binary model with contexts.

    Args:
        masks: bool [clips, patches].
        grid: (rows, columns) of the patches.
        known: bool [clips, patches], patches whose bit is known beforehand and is not coded.
    """
    shaped = masks.reshape(-1, *grid)
    padded = np.pad(shaped, ((1, 0), (1, 0), (1, 1)))
    left, above, above_right = padded[1:, 1:, :-2], padded[1:, :-1, 1:-1], padded[1:, :-1, 2:]
    before = padded[:-1, 1:, 1:-1]
    contexts = (left + 2 * above + 4 * above_right + 8 * before).reshape(masks.shape)
    coded = np.ones_like(masks) if known is None else ~known
    counts = np.full((16, 2), 0.5)
    bits = 0.0
    for context, bit in zip(contexts[coded].tolist(), masks[coded].astype(int).tolist(), strict=True):
        bits -= math.log2(counts[context, bit] / counts[context].sum())
        counts[context, bit] += 1
    return bits
