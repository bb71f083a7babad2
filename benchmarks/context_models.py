"""Context models of ids: the baseline of what a language model predicts, without a network.

A model of order k counts which id follows each k ids of its stream, and each shorter context. Its probability is mixed
from all of them, longest first, as in prediction by partial matching with escape method C (Witten and Bell 1991): a
context that was seen n times with d different ids counts n against d for the shorter one.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence


class ContextModel:
    """Predicts each id of a sequence from its context; learns from the sequences that it is shown.

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
