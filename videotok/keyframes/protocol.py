"""KeyframeTokenizerProtocol: all that videotok uses of a keyframe tokenizer, whoever made and trained it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn

from motion_vq.model_base import double_precision
from videotok.errors import ModelError


@dataclass(frozen=True)
class KeyframeTokens:
    """The ids of a batch of keyframes, and the patches that they stand for."""

    ids: list[Tensor]
    """One int64 [n_i] a keyframe, in raster order of the kept patches; ids from 0."""
    keep_mask: Tensor
    """bool [B, N]: which patches were kept; row i has n_i of them."""

    def __repr__(self) -> str:
        return f"KeyframeTokens({[len(ids) for ids in self.ids]} of {self.keep_mask.shape[1]} patches)"


@dataclass(frozen=True)
class ExpectedErrors:
    """What a keyframe tokenizer expects of images before they are encoded."""

    scores: Tensor
    """[B, N], see `KeyframeTokenizerProtocol.scores`."""
    errors: Tensor
    """[B, L, N]: mean squared error of each patch of the decoded images in [-1, 1], for L numbers of tokens."""
    features: Tensor | None = None
    """What `KeyframeTokenizerProtocol.encode_features` takes, [B, ...]; None: there is nothing to be saved by it."""


@runtime_checkable
class KeyframeTokenizerProtocol(Protocol):
    """Turns square images into codebook ids at the patches of a grid, and back.

        images [B, 3, S, S] ── encode ──► ids int64 [n_i] an image, keep_mask bool [B, N] ── decode ──► [B, 3, S, S]

    `KeyframeTokenizer` keeps the patches that matter, `VQModelTokenizer` has a code for every cell of its grid,
    `videotok.lavit` holds the published Video-LaVIT tokenizer; others are registered under the entry point group
    `videotok.keyframes` (see `videotok.bundle`). A class that subclasses this protocol gets the members that have a
    default here; it gives the others as properties or class attributes.

    Encoding must not draw random numbers unless it is given a `generator`, and in float64 it must give the same ids in
    any batch and on any number of threads.
    """

    @property
    def image_size(self) -> int:
        """S: side of the square images it takes and returns, in pixels. Keyframes of other shapes are resized to it."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        ...

    @property
    def num_patches(self) -> int:
        """N = rows * columns: the most tokens that a keyframe can have."""
        rows, columns = self.grid
        return rows * columns

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids lie in [0, codebook_size)."""
        ...

    @property
    def codebook_vectors(self) -> Tensor | None:
        """The codes, float [codebook_size, dim]; None where they are not shown."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        ...

    @property
    def drops_patches(self) -> bool:
        """Whether `decode` can do without the tokens of some patches. False: `keep_mask` is always all True."""
        ...

    @property
    def codes_have_positions(self) -> bool:
        """Whether a token describes the patch it stands at. False: the tokens describe the image as a whole, so a patch
        cannot be predicted from the keyframe before."""
        return True

    @property
    def refines_codes(self) -> bool:
        """Whether `encode` takes `refinement_steps`."""
        return False

    @property
    def samples_patches(self) -> bool:
        """Whether `encode` takes a `generator`, to sample the kept patches."""
        return False

    @property
    def chooses_rate(self) -> bool:
        """Whether `encode` takes a `keep_ratio` below 1. False: the tokenizer decides by itself how much it keeps."""
        return True

    @property
    def expects_errors(self) -> bool:
        """Whether there is `expected_errors`, which control of the rate of a whole video needs."""
        return False

    @property
    def decodes_beside_encoding(self) -> bool:
        """Whether one thread may `decode`, exactly too, while another one is in `encode`."""
        return False

    @property
    def encoding_dtype(self) -> torch.dtype:
        """Precision of the weights while `encode` runs. Where it is float32, `encode` and `scores` make sure themselves
        that rounding decides nothing."""
        return torch.float64

    @property
    def decode_error(self) -> float:
        """Bound on the rounding error of a pixel that `decode` gives in float32.

        0: not known; what is decided on decoded pictures is then decided in `encoding_dtype` alone. Above 0 only of a
        tokenizer that is an `nn.Module`."""
        return 0.0

    @property
    def feature_width(self) -> int:
        """Width of `patch_features`; 0: there are none."""
        return 0

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Move or cast the weights in place, and return the tokenizer."""
        ...

    def scores(self, images: Tensor) -> Tensor:
        """Return how much each patch is worth its token, [B, N], for images [B, 3, S, S] in [-1, 1].

        Scores are comparable between images: rate control spends the tokens of a video from the highest score down.
        Not called where `drops_patches` is False.
        """
        ...

    def expected_errors(self, images: Tensor, counts: Sequence[int]) -> ExpectedErrors:
        """Return `scores`, and the error of each patch that is expected if the best patches by score have tokens.

        Args:
            images: [B, 3, S, S] in [-1, 1].
            counts: numbers of patches with a token, each 1 to N.

        Raises:
            ModelError: this tokenizer does not expect errors.
        """
        raise ModelError(f"{type(self).__name__} does not say which errors to expect; leave the rate to its options")

    def encode_features(
        self, features: Tensor, images: Tensor, keep_mask: Tensor, refinement_steps: int | None = None
    ) -> KeyframeTokens:
        """Return the tokens that `encode` gives with a `keep_mask`, in less time.

        Only called where `expected_errors` gave features.

        Args:
            features: of these images, `ExpectedErrors.features`.
            images, keep_mask, refinement_steps: see `encode`.
        """
        del features
        return self.encode(images, keep_mask=keep_mask, refinement_steps=refinement_steps)

    def patch_features(self, images: Tensor, keep_mask: Tensor) -> list[Tensor]:
        """Return continuous features of kept patches for a language model, [n_i, feature_width] an image.

        Args:
            images: float [B, 3, S, S] in [-1, 1].
            keep_mask: bool [B, N], at least one patch an image.

        Raises:
            ModelError: this tokenizer has no such features.
        """
        raise ModelError(f"{type(self).__name__} has no features of kept patches; use its ids instead")

    def encode(
        self,
        images: Tensor,
        *,
        keep_ratio: float | None = None,
        num_tokens: int | None = None,
        keep_mask: Tensor | None = None,
        refinement_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> KeyframeTokens:
        """Return the tokens of images.

        Args:
            images: [B, 3, S, S] in [-1, 1], of any float type.
            keep_ratio: share of all patches to keep, above 0 to 1, on average over many images. None: the model's own.
            num_tokens: exactly so many tokens an image instead, 1 to N.
            keep_mask: bool [B, N] instead: the patches to keep, at least one an image.
            refinement_steps: steps of code refinement, where `refines_codes`. None: the model's own number.
            generator: samples the kept patches, where `samples_patches`. None: nothing is random.

        Raises:
            ValueError: images of another size, more than one of `keep_ratio`, `num_tokens` and `keep_mask`, or an
                option that is out of range or that this tokenizer does not have.
        """
        ...

    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """Return the images of tokens, [B, 3, S, S] in [-1, 1].

        Args:
            ids: int64 [n_i] an image, in raster order of the kept patches.
            keep_mask: bool [B, N].

        Raises:
            ValueError: an id outside the codebook, or another number of ids than of kept patches.
        """
        ...

    def decode_exactly(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """Return what `decode` gives with float64 weights. Only called where `decode_error` is above 0."""
        with double_precision(cast(nn.Module, self)):
            return self.decode(ids, keep_mask)


def check_images(images: Tensor, image_size: int) -> None:
    """Refuse images that are not [B, 3, image_size, image_size].

    Raises:
        ValueError: another shape.
    """
    expected = (3, image_size, image_size)
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(f"`images` must be [B, {', '.join(map(str, expected))}], got {list(images.shape)}")


def check_keep_mask(keep_mask: Tensor, shape: tuple[int, int]) -> None:
    """Refuse a mask that is not bool of `shape` [B, N], or keeps no patch of some image.

    Raises:
        ValueError: such a mask.
    """
    if keep_mask.shape != shape or keep_mask.dtype != torch.bool or not keep_mask.any(1).all():
        raise ValueError(f"`keep_mask` must be bool {list(shape)} and keep at least one patch of each image")


def check_ids(ids: Tensor, codebook_size: int) -> None:
    """Refuse ids (any shape) outside the codebook.

    Raises:
        ValueError: an id below 0, or of `codebook_size` and more.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < codebook_size:
        raise ValueError(
            f"`ids` lie in {int(ids.min())}..{int(ids.max())}, this codebook has codes 0..{codebook_size - 1}"
        )
