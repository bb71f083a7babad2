"""How many bits tokens take under context models: what an arithmetic coder could reach, without a network.

`coded_bits` adapts to one video. `ContextModel` learns from other videos first: the baseline of a language model.

The code length is the ideal one, the sum of -log2 of the probability that a model gives each id before it sees it. The
models of `coded_bits` count what came before in the same video and know nothing else:

    ids     a mixture of experts: ids of equal probability; counts of all ids of the stream, with several strengths of
            the prior; and counts of the ids that came in the same context. Its weights follow what has been right.
    masks   binary, in the context of the patches to the left and above, and of the same patch in the clip before.

Contexts of a motion id are the id of the quantizer before, and those of the patches to the left, above and before it in
time, and of the same patch in the clip before; of a visual id the one before it and the last one at its patch; of a
global-motion id its place, and the id at this place in the clip before.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from videotok import VideoTokens

PRIORS = (1.0, 1 / 16, 1 / 256, 1 / 4096)
"""Counts that every id begins with, an expert each."""
BACKOFF = 1.0
"""Weight of the counts without context beside those in a context, in ids."""
SHARE = 0.002
"""Share of the weights that is dealt out evenly after each id, so that no expert is ever out."""
NOTHING = -1
"""Context at a border."""


def coded_bits(
    tokens: VideoTokens, grid: tuple[int, int], motion_grid: tuple[int, int, int] | None = None
) -> dict[str, float]:
    """Return the bits of each stream of a video's tokens.

    Args:
        grid: (rows, columns) of the keyframes' patches.
        motion_grid: (times, rows, columns) of the motion ids of a quantizer; None: one after another.

    Returns:
        Stream -> bits, of `visual`, `keep_mask`, `skip_mask`, `global_motion` and `motion_1`, `motion_2`, … for each
        motion quantizer.
    """
    sizes = tokens.codebooks
    streams = {
        "visual": id_bits(tokens.visual_ids, sizes["visual"], visual_contexts(tokens)),
        "skip_mask": mask_bits(tokens.skip_mask, grid),
        # a skipped patch is never kept: only the others are coded
        "keep_mask": mask_bits(tokens.keep_mask, grid, known=tokens.skip_mask),
        "global_motion": id_bits(
            tokens.global_motion_ids.ravel(), sizes["global_motion"], global_motion_contexts(tokens.global_motion_ids)
        ),
    }
    for quantizer in range(tokens.num_motion_quantizers):
        has_ids = tokens.motion_quantizers > quantizer
        contexts = motion_contexts(tokens.motion_ids, tokens.motion_quantizers, quantizer, motion_grid)
        ids = tokens.motion_ids[has_ids, quantizer].ravel()
        streams[f"motion_{quantizer + 1}"] = id_bits(ids, sizes["motion"], contexts)
    return streams


def visual_contexts(tokens: VideoTokens) -> list[np.ndarray]:
    """Return the contexts of the visual ids, int64 [ids] each."""
    last = np.full(tokens.keep_mask.shape[1], NOTHING, np.int64)
    at_patch = []
    for clip in range(tokens.num_clips):
        kept = tokens.keep_mask[clip]
        at_patch.append(last[kept])
        last[kept] = tokens.visual_ids_of(clip)
    return [np.concatenate([[NOTHING], tokens.visual_ids[:-1]]), np.concatenate(at_patch)]


def global_motion_contexts(ids: np.ndarray) -> list[np.ndarray]:
    """Return the contexts of global-motion ids int [clips, K], int64 [clips * K] each."""
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    before = np.concatenate([np.full((1, ids.shape[1]), NOTHING), ids[:-1]])
    return [places.ravel(), (before * ids.shape[1] + places).ravel()]


def motion_contexts(
    ids: np.ndarray, counts: np.ndarray, quantizer: int, grid: tuple[int, int, int] | None
) -> list[np.ndarray]:
    """Return the contexts of the motion ids of one quantizer, for the clips that have it, int64 [ids] each.

    Args:
        ids: int [clips, quantizers, P].
        counts: int [clips], quantizers of each clip.
        grid: (times, rows, columns) of P; None: (1, 1, P).
    """
    has_ids = counts > quantizer
    own = np.where(has_ids[:, None], ids[:, quantizer], NOTHING).reshape(-1, *(grid or (1, 1, ids.shape[2])))
    padded = np.pad(own, [(1, 0)] * 4, constant_values=NOTHING)
    neighbours = [
        padded[1:, 1:, 1:, :-1],
        padded[1:, 1:, :-1, 1:],
        padded[1:, :-1, 1:, 1:],
        padded[:-1, 1:, 1:, 1:],
    ]
    found = [neighbour[has_ids].ravel() for neighbour in neighbours]
    if quantizer:
        found.append(ids[has_ids, quantizer - 1].ravel())
    return found


def id_bits(ids: np.ndarray, codebook_size: int, contexts: Sequence[np.ndarray] = ()) -> float:
    """Return the code length of ids 0 to codebook_size - 1 under the mixture.

    Args:
        ids: int [n].
        contexts: int [n] each, known before the id.
    """
    mixture = ContextMixture(codebook_size, len(contexts))
    columns = [column.tolist() for column in contexts]
    bits = 0.0
    for value, *context in zip(ids.tolist(), *columns, strict=True):
        bits -= math.log2(mixture.probability(value, context))
        mixture.update(value, context)
    return bits


class ContextMixture:
    """Probabilities of ids from what came before, by several experts whose weights follow how right they were."""

    def __init__(self, codebook_size: int, num_contexts: int) -> None:
        self.size = codebook_size
        self.counts: Counter[int] = Counter()
        self.total = 0
        self.in_context: list[dict[int, Counter[int]]] = [defaultdict(Counter) for _ in range(num_contexts)]
        count = 1 + len(PRIORS) + num_contexts
        self.weights = [1 / count] * count

    def probability(self, value: int, context: Sequence[int]) -> float:
        """Return the probability of an id; those of all ids add up to 1."""
        return sum(w * p for w, p in zip(self.weights, self._experts(value, context), strict=True))

    def update(self, value: int, context: Sequence[int]) -> None:
        """Take in the id that came."""
        products = [w * p for w, p in zip(self.weights, self._experts(value, context), strict=True)]
        total = sum(products)
        even = SHARE / len(products)
        self.weights = [(1 - SHARE) * product / total + even for product in products]
        self.counts[value] += 1
        self.total += 1
        for table, key in zip(self.in_context, context, strict=True):
            table[key][value] += 1
            table[key][NOTHING] += 1  # their number

    def _experts(self, value: int, context: Sequence[int]) -> list[float]:
        seen = self.counts[value]
        found = [1 / self.size]
        found += [(seen + prior) / (self.total + prior * self.size) for prior in PRIORS]
        alone = found[2]
        for table, key in zip(self.in_context, context, strict=True):
            counts = table[key]
            found.append((counts[value] + BACKOFF * alone) / (counts[NOTHING] + BACKOFF))
        return found


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


class ContextModel:
    """Predicts each id of a sequence from its context; learns from the sequences that it is shown.

    A model of order k counts which id follows each k ids of its stream, and each shorter context. Its probability is
    mixed from all of them, longest first, as in prediction by partial matching with escape method C (Witten and Bell
    1991): a context that was seen n times with d different ids counts n against d for the shorter one.

    Args:
        order: ids of context.
        size: ids there are.
    """

    def __init__(self, order: int, size: int) -> None:
        self.order, self.size = order, size
        self._counts: dict[tuple[Hashable, ...], Counter[int]] = defaultdict(Counter)

    def learn(self, ids: Sequence[int], places: Sequence[Hashable] | None = None) -> None:
        """Count a sequence; `places` as in `bits`."""
        for number, value in enumerate(ids):
            for context in self._contexts(ids, number, places):
                self._counts[context][value] += 1

    def bits(self, ids: Sequence[int], places: Sequence[Hashable] | None = None) -> float:
        """Return the bits of a sequence under what was learned so far.

        Args:
            ids: the sequence.
            places: what is known about each place and belongs to every context, such as the number of a global-motion
                term; None: nothing.
        """
        total = 0.0
        for number, value in enumerate(ids):
            probability = 1 / self.size
            for context in self._contexts(ids, number, places):
                if counts := self._counts.get(context):
                    seen, different = counts.total(), len(counts)
                    probability = (counts[value] + different * probability) / (seen + different)
            total -= math.log2(probability)
        return total

    def _contexts(
        self, ids: Sequence[int], number: int, places: Sequence[Hashable] | None
    ) -> list[tuple[Hashable, ...]]:
        """Return the contexts of a place, the shortest first."""
        place = () if places is None else (places[number],)
        longest = min(self.order, number)
        return [(*place, *ids[number - length : number]) for length in range(longest + 1)]
