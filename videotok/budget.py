"""A video's budget of visual tokens, spent where they matter."""

import torch
from torch import Tensor

WINDOW = 16
"""Keyframes that share a budget: 32 seconds of video at 12 frames a second."""


class Budget:
    """So many tokens a keyframe on average, never more in all.

    Keyframes are taken `WINDOW` at a time, counted from the first (memory must not grow with the length of the video).
    The patches of a window compete by their scores, whichever keyframe they are in: a hard keyframe gets more tokens
    than an easy one. What a keyframe leaves (its picture was mostly carried on from the one before) goes to those after
    it, so at every keyframe all tokens spent so far are within what has been shared out.
    """

    def __init__(self, tokens_per_keyframe: int) -> None:
        self.tokens_per_keyframe = tokens_per_keyframe
        self.left = 0
        """Tokens that were shared out and not spent."""

    def shares(self, scores: Tensor) -> list[int]:
        """Tokens of each keyframe of a window: scores [n, N] -> n numbers from 1 to N, together n times the budget.

        Equal scores go to the earlier patch.
        """
        count, patches = scores.shape
        total = min(self.tokens_per_keyframe, patches) * count
        ranked = scores.clone()
        # a keyframe without any token could not be decoded
        ranked[torch.arange(count), scores.argmax(dim=1)] = torch.inf
        best = ranked.flatten().argsort(descending=True, stable=True)[:total]
        return torch.bincount(best // patches, minlength=count).tolist()

    def allow(self, share: int, patches: int) -> int:
        """Tokens that a keyframe may take: its share and what was left, up to all of its `patches`."""
        return min(share + self.left, patches)

    def spend(self, share: int, used: int) -> None:
        """Books what a keyframe took of its share and of what was left."""
        self.left += share - used
