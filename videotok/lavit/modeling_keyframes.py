"""LavitKeyframeTokenizer: the dynamic visual tokenizer of LaVIT (arXiv 2309.04669) in its published form.

Its parts are EVA's vision transformer (arXiv 2211.07636), the selector of `videotok.keyframes`, and a merger whose
attention masks leak a little, as the published weights were trained.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from motion_vq.attention import Attention, FeedForward, tanh_head
from motion_vq.model_base import VideotokModel
from motion_vq.vector_quantizer import nearest
from unet3d.diffusion import device_of
from videotok.errors import ModelError
from videotok.keyframes.protocol import (
    ExpectedErrors,
    KeyframeTokenizerProtocol,
    KeyframeTokens,
    check_ids,
    check_images,
    check_keep_mask,
)
from videotok.keyframes.selector import Selector, keep_above
from videotok.keyframes.vit import VisionTransformer, patchify

if TYPE_CHECKING:
    from videotok.lavit.image_decoder import ImageDecoder

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean and standard deviation of red, green and blue in [0, 1]."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class EvaTransformer(VisionTransformer):
    """EVA's vision transformer up to its last block: images [B, 3, S, S] in [-1, 1] -> features [B, N, D].

    A class token takes part in the attention and is dropped at the end.
    """

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__(image_size, patch_size, width, depth, heads, hidden)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2 + 1, width))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, N, D] of images [B, 3, S, S] in [-1, 1], in raster order."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        x = self.patches(patchify(((images + 1) / 2 - mean) / std, self.patch_size))
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class LeakyAttention(Attention):
    """Attention whose mask leaks a little. With exponentials e and mask m (0 or 1), the weights over N positions are

        (e m + leak / N) / (sum(e m) + leak)

    where e is relative to the largest score, masked ones included (DynamicViT, Rao et al., arXiv 2106.02034, eq. 11).
    """

    leak = 1e-6

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, fused_kernel=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return attended features [B, N, D]; arguments as for `Attention`, without a mask as there."""
        if mask is None:
            return super().forward(x, memory)
        query, key, value = self.project(x, memory)
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        allowed = (scores - scores.amax(-1, keepdim=True)).float().exp() * mask
        weights = (allowed + self.leak / key.shape[-2]) / (allowed.sum(-1, keepdim=True) + self.leak)
        return self.merge_heads(weights.to(value.dtype) @ value)


class LeakyMergerBlock(nn.Module):
    """Causal self-attention of kept patches, cross-attention of all patches to dropped ones, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.causal, self.cross = LeakyAttention(width, heads), LeakyAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, memory: Tensor, causal_mask: Tensor, dropped: Tensor) -> Tensor:
        """Return [B, N, D] of x and memory [B, N, D], causal_mask bool [B, 1, N, N], dropped bool [B, 1, 1, N]."""
        x = x + self.causal(self.causal_norm(x), mask=causal_mask)
        x = x + self.cross(self.cross_norm(x), memory, mask=dropped)
        return x + self.mlp(self.mlp_norm(x))


class LeakyMerger(nn.Module):
    """LaVIT's token merger: information of dropped patches moves into the kept ones.

    All patches go through; a dropped one attends to itself and to the kept ones before it. Only the kept ones are used.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(LeakyMergerBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, keep_mask: Tensor) -> Tensor:
        """Return merged features [B, N, D] of features [B, N, D] and keep_mask bool [B, N]."""
        count = keep_mask.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=keep_mask.device)
        causal_mask = (keep_mask[:, None, None] | itself) & torch.ones_like(itself).tril()
        memory, x = self.memory_norm(features), features
        for block in self.blocks:
            x = block(x, memory, causal_mask, ~keep_mask[:, None, None])
        return self.norm(x)


class LavitKeyframeTokenizer(VideotokModel):
    """LaVIT's keyframe tokenizer, as `KeyframeTokenizerProtocol` describes it.

        images ── EvaTransformer ──► features ── Selector ──► keep / drop logits ──► keep_mask
                                        └────── LeakyMerger ──► Linear-Tanh-Linear ──► unit length ──► ids

    The selector's two numbers a patch are logits here: a patch is kept where keeping is more likely, or with its
    probability where a generator is given, as in the published code. The model decides how many patches are kept.

    A code describes the image, not its patch: `decode` gives the codes to a latent diffusion model (`ImageDecoder`),
    without their positions.

    Args:
        image_size, patch_size, width, depth, heads, hidden: of the transformer; the merger has its width and heads.
        merger_depth: blocks of the merger.
        codebook_size, code_dim: number of codes, and their dimensions.
        language_width: of the features that a language model reads instead of ids (`patch_features`); 0: these weights
            have none.
    """

    renamed_parameters: ClassVar[dict[str, str | None]] = {"words": "codes", "selector.judge": "selector.head"}

    codes: Tensor
    """Float [codebook_size, code_dim]."""
    drops_patches = True
    """`decode` needs no token of a dropped patch."""
    codes_have_positions = False
    """So no patch of a keyframe can be predicted from the keyframe before."""
    refines_codes = False
    samples_patches = True
    chooses_rate = False
    """The selector was trained for one rate: `keep_ratio` and `num_tokens` are refused."""
    encoding_dtype = torch.float32
    """In float64 the weights would take 11 GB."""
    expects_errors = False
    decode_error = 0.0
    """Not known. Its codes have no positions, so no keyframe is predicted from another."""
    decodes_beside_encoding = False
    encode_features = KeyframeTokenizerProtocol.encode_features
    decode_exactly = KeyframeTokenizerProtocol.decode_exactly

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1408,
        depth: int = 40,
        heads: int = 16,
        hidden: int = 6144,
        merger_depth: int = 12,
        codebook_size: int = 16384,
        code_dim: int = 32,
        language_width: int = 4096,
    ) -> None:
        super().__init__()
        self.vit = EvaTransformer(image_size, patch_size, width, depth, heads, hidden)
        self.selector = Selector(width, image_size // patch_size)
        # parts that only our own scores need are not among the published weights; without values they could not be
        # moved to another device
        del self.selector.redundancy, self.selector.distances
        self.merger = LeakyMerger(width, merger_depth, heads, hidden)
        self.to_code = tanh_head(width, code_dim)
        self.register_buffer("codes", F.normalize(torch.randn(codebook_size, code_dim), dim=-1))
        self.to_language = nn.Linear(width, language_width) if language_width else None
        self._image_decoder: ImageDecoder | None = None
        self._load_image_decoder: Callable[[torch.dtype], ImageDecoder] | None = None
        self._missing_files: tuple[str, ...] = ()

    @property
    def image_size(self) -> int:
        """Side of the square images it takes, in pixels."""
        return self.config["image_size"]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        side = self.image_size // self.config["patch_size"]
        return side, side

    @property
    def num_patches(self) -> int:
        """The most tokens that a keyframe can have."""
        return self.grid[0] * self.grid[1]

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids lie in [0, codebook_size)."""
        return self.config["codebook_size"]

    @property
    def codebook_vectors(self) -> Tensor:
        """The codes, [codebook_size, code_dim]."""
        return self.codes

    @property
    def feature_width(self) -> int:
        """Width of `patch_features`; 0: these weights have none."""
        return self.config["language_width"]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast the weights in place. A loaded image decoder moves along, but keeps its dtype."""
        device_before = self.device
        super().to(*args, **kwargs)
        if self._image_decoder is not None and self.device != device_before:
            self._image_decoder.to(device_of(self))
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return features [B, N, width] of images [B, 3, S, S] in [-1, 1]."""
        check_images(images, self.image_size)
        return self.vit(images.to(device_of(self), self.dtype))

    @torch.no_grad()
    def expected_errors(self, images: Tensor, counts: Sequence[int]) -> ExpectedErrors:
        """Refuse: its selector does not say which errors to expect.

        Raises:
            ModelError: always.
        """
        del images, counts
        raise ModelError("Video-LaVIT's keyframe tokenizer does not say which errors to expect")

    def scores(self, images: Tensor) -> Tensor:
        """Return the log odds of keeping each patch, [B, N], of images [B, 3, S, S] in [-1, 1]."""
        return self.keep_log_odds(self.features(images))

    @torch.no_grad()
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
            images: [B, 3, S, S] in [-1, 1], of this model's `image_size`.
            keep_ratio, num_tokens: must be None: the selector was trained for one rate.
            keep_mask: bool [B, N]: the patches to keep, at least one an image. None: the selector decides.
            refinement_steps: None or 0: there is no refinement.
            generator: samples the kept patches by their probability. None: those that are more likely kept.

        Raises:
            ValueError: images of another size, a mask of another shape, or an option that this model does not have.
        """
        for name, value in (("keep_ratio", keep_ratio), ("num_tokens", num_tokens)):
            if value is not None:
                raise ValueError(f"`{name}` (={value}): the published selector was trained for one rate; leave it out")
        if refinement_steps:
            raise ValueError(
                f"`refinement_steps` (={refinement_steps}): these weights have no code refinement; leave it out"
            )
        features = self.features(images)
        mask = self.select(features, generator) if keep_mask is None else keep_mask.to(features.device)
        check_keep_mask(mask, (features.shape[0], features.shape[1]))
        merged = self.merger(features, mask)
        vectors = F.normalize(self.to_code(merged[mask]).float(), dim=-1)
        ids = nearest(vectors, self.codes.float())
        return KeyframeTokens(list(ids.cpu().split(mask.sum(1).tolist())), mask.cpu())

    def select(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return which patches to keep, bool [B, N], of features [B, N, width]; always the best one of an image.

        `generator`: keep each patch with its probability; None: where that is at least one half.
        """
        log_odds = self.keep_log_odds(features)
        if generator is not None:
            # a hard Gumbel-softmax of two logits compares them with the difference of two Gumbel variables, which has
            # a logistic distribution
            uniform = torch.rand(log_odds.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            log_odds = log_odds + uniform.logit().to(log_odds)
        return keep_above(log_odds, log_odds.new_zeros(()))

    def keep_log_odds(self, features: Tensor) -> Tensor:
        """Return the log odds of keeping each patch, [B, N], of features [B, N, width]."""
        kept, dropped = self.selector.head(self.selector.mixed_features(features)).float().unbind(-1)
        return kept - dropped

    @torch.no_grad()
    def patch_features(self, images: Tensor, keep_mask: Tensor) -> list[Tensor]:
        """Return what the understanding model reads instead of ids, [n_i, feature_width] an image.

        Args:
            images: float [B, 3, S, S] in [-1, 1].
            keep_mask: bool [B, N].

        Raises:
            ModelError: these weights have no projection into a language model's embeddings.
        """
        if self.to_language is None:
            raise ModelError(
                "these keyframe weights have no features for a language model (vit_proj); read ids instead"
            )
        features = self.features(images)
        mask = keep_mask.to(features.device)
        merged = self.to_language(self.merger(features, mask))
        return [row[kept] for row, kept in zip(merged, mask, strict=True)]

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor, *, previous: Tensor | None = None) -> Tensor:
        """Return the images of ids int64 [n_i] an image, [B, 3, S, S] in [-1, 1]; `keep_mask` is not needed.

        `previous`: [1, 3, H, W] in [-1, 1], an image to stay close to, see `ImageDecoder.decode`.

        Raises:
            ValueError: an id outside the codebook.
            ModelError: weights without an image decoder.
        """
        del keep_mask
        check_ids(torch.cat(ids), self.codebook_size)
        return self.image_decoder.decode([self.codes[row.to(self.codes.device)] for row in ids], previous=previous)

    def set_image_decoder(
        self, load: "Callable[[torch.dtype], ImageDecoder] | None", missing_files: Sequence[str] = ()
    ) -> None:
        """Set what loads the image decoder in a given dtype, on the first `decode`.

        Args:
            load: None: there is no image decoder.
            missing_files: files that it would need, for the message.
        """
        self._image_decoder, self._load_image_decoder = None, load
        self._missing_files = tuple(missing_files)

    @property
    def image_decoder(self) -> "ImageDecoder":
        """The image decoder, loaded on first use.

        Raises:
            ModelError: there is none.
        """
        if self._image_decoder is None:
            if self._load_image_decoder is None:
                missing = ", ".join(self._missing_files) or "an image decoder"
                raise ModelError(
                    f"these weights cannot decode keyframes ({missing} missing); download the files too, or decode "
                    "with keyframes from the source"
                )
            self._image_decoder = self._load_image_decoder(self.dtype)
            self._image_decoder.to(device_of(self))
        return self._image_decoder
