"""What the pipeline needs of a keyframe tokenizer, whoever trained it."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from videotok.keyframes.tokenizer import KeyframeTokens


@runtime_checkable
class KeyframeTokenizerProtocol(Protocol):
    """Square pictures to integers at places of a grid, and back.

        images [B, 3, S, S] ── encode ──► ids int64 [n_i] a picture, keep_mask bool [B, N] ── decode ──► [B, 3, S, S]

    `videotok.keyframes.KeyframeTokenizer` (words at the patches that matter) and `videotok.keyframes.VQModelTokenizer`
    (a word at every cell) are two; others are registered under the entry point group `videotok.keyframes`, see
    `videotok.bundle`. Encoding must draw nothing at random, and in float64 give the same ids in any batch
    and on any number of threads.
    """

    @property
    def image_size(self) -> int:
        """S: side of the square pictures it takes and gives, in pixels. Keyframes of other shapes are squashed."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the places that words can stand at."""
        ...

    @property
    def num_patches(self) -> int:
        """N: rows times columns, the most words that a keyframe can have."""
        ...

    @property
    def codebook_size(self) -> int:
        """Number of words; ids lie in [0, codebook_size)."""
        ...

    @property
    def drops_patches(self) -> bool:
        """Whether `decode` can do without the words of some places. False: `keep_mask` is all True, always."""
        ...

    def scores(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] in [-1, 1] -> how much each place deserves its word, [B, N].

        Comparable between pictures: the budget of a video is spent from the highest score down. Not called where
        `drops_patches` is False.
        """
        ...

    def encode(self, images: Tensor, keep: float | None = None, *, keep_mask: Tensor | None = None) -> KeyframeTokens:
        """images [B, 3, S, S] in [-1, 1], of any float type -> their words.

        Args:
            images: float tensor.
            keep: part of all patches to keep, 0 < keep <= 1, on the average over many pictures; None: its own rate.
            keep_mask: bool [B, N] instead: the caller chooses the patches, at least one a picture.

        Raises:
            ValueError: pictures of another size, or a rule that cannot be followed.
        """
        ...

    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """ids int64 [n_i] a picture, in reading order of the kept patches, and keep_mask bool [B, N] ->
        images [B, 3, S, S] in [-1, 1].

        Raises:
            ValueError: an id outside the codebook, or another number of ids than kept patches.
        """
        ...
