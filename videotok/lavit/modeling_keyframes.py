"""EVA's vision transformer (arXiv 2211.07636) up to its last block, and the blocks of LaVIT's tokenizer.

LavitKeyframes: LaVIT's dynamic visual tokenizer in its published form (arXiv 2309.04669).
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from motion_vq.attention import tanh_head
from motion_vq.vector_quantizer import nearest
from unet3d.diffusion import device_of
from videotok.errors import ModelError
from videotok.keyframes.selector import Selector, keep_above
from videotok.keyframes.tokenizer import KeyframeTokens
from videotok.keyframes.vit import Attention, Block, FeedForward, VisionTransformer, patchify

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's, of pixels in [0, 1]."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class EvaTransformer(VisionTransformer):
    """images [B, 3, S, S] in [-1, 1] -> features [B, N, D], one a patch; a class token goes along and is left out."""

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__(image_size, patch_size, width, depth, heads, hidden)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2 + 1, width))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        x = self.patches(patchify(((images + 1) / 2 - mean) / std, self.patch_size))
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class LeakyAttention(Attention):
    """Attention whose mask leaks: with the exponentials e and the mask m (0 or 1), weights over N places are

        (e m + leak / N) / (sum(e m) + leak)

    e is taken relative to the largest score, masked ones included (DynamicViT, Rao et al., arXiv 2106.02034, eq. 11).
    """

    leak = 1e-6

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], memory [B, N, D], mask bool broadcastable to [B, heads, N, N], True where looking is allowed."""
        if mask is None:
            return super().forward(x, memory)
        source = x if memory is None else memory
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        closeness = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        allowed = (closeness - closeness.amax(-1, keepdim=True)).float().exp() * mask
        weights = (allowed + self.leak / source.shape[1]) / (allowed.sum(-1, keepdim=True) + self.leak)
        return self.out((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


class LeakyMergerBlock(nn.Module):
    """Causal self-attention of kept patches, cross-attention of all to dropped ones, MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.causal, self.cross = LeakyAttention(width, heads), LeakyAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor, dropped: Tensor) -> Tensor:
        """x and memory [B, N, D]; seen bool [B, 1, N, N], dropped bool [B, 1, 1, N]."""
        x = x + self.causal(self.causal_norm(x), mask=seen)
        x = x + self.cross(self.cross_norm(x), memory, mask=dropped)
        return x + self.mlp(self.mlp_norm(x))


class LeakyMerger(nn.Module):
    """features [B, N, D] and which to keep -> merged [B, N, D], of which the kept ones count.

    LaVIT's own: all patches go through, dropped ones see themselves beside the kept ones before them.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(LeakyMergerBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, keep_mask: Tensor) -> Tensor:
        count = keep_mask.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=keep_mask.device)
        seen = (keep_mask[:, None, None] | itself) & torch.ones_like(itself).tril()
        memory, x = self.memory_norm(features), features
        for block in self.blocks:
            x = block(x, memory, seen, ~keep_mask[:, None, None])
        return self.norm(x)


class CrossBlock(Block):
    """Self-attention, attention to a memory, MLP, each added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, n, D], memory [B, m, D], mask bool [B, 1, 1, m], True where memory is there."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.cross(self.cross_norm(x), memory, mask)
        return x + self.mlp(self.mlp_norm(x))


class Painter(Protocol):
    """What makes pictures of codes."""

    def paint(self, codes: list[Tensor]) -> Tensor:
        """codes [n_i, code_dim] a picture, in their order -> images [B, 3, S, S] in [-1, 1]."""
        ...


class LavitKeyframes(ModelMixin, ConfigMixin):
    """Behind `KeyframeTokenizerProtocol`, of the same parts as `KeyframeTokenizer`.

        images ── EvaTransformer ──► features ── Selector ──► keep / drop logits ──► keep_mask
                                        └──────── LeakyMerger ──► Linear-Tanh-Linear ──► length one ──► ids

    The selector's two numbers a patch are logits here: a patch is kept where keeping is the more likely, or with its
    probability where `sampling` is set, as the published code does. The model chooses how many that are.

    Words say what a picture shows, not where: `decode` gives them to `painter`, which does without the places.

    Args:
        image_size, patch_size, width, depth, heads, hidden: of the transformer; the merger has its width and heads.
        merger_depth, codebook_size, code_dim: as they say.
        language_width: of the features that a language model is given instead of ids (`language_features`); 0: these
            weights have none.
    """

    words: Tensor
    words_have_places = False
    """A clip's keyframe cannot be carried on from the one before."""

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
        # our own selector asks how far a token tells of others; the published logits do not. What is not among the
        # published weights would stay without numbers, and could not be moved to another device
        del self.selector.reach, self.selector.distances
        self.merger = LeakyMerger(width, merger_depth, heads, hidden)
        self.to_code = tanh_head(width, code_dim)
        self.register_buffer("words", F.normalize(torch.randn(codebook_size, code_dim), dim=-1))
        self.to_language = nn.Linear(width, language_width) if language_width else None
        self.painter: Painter | None = None
        self.lacking: tuple[str, ...] = ()
        self.sampling: torch.Generator | None = None

    @property
    def image_size(self) -> int:
        """Side of the square pictures it takes, in pixels."""
        return self.config["image_size"]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        side = self.image_size // self.config["patch_size"]
        return side, side

    @property
    def num_patches(self) -> int:
        """The most words a keyframe can have."""
        return self.grid[0] * self.grid[1]

    @property
    def codebook_size(self) -> int:
        """Number of words; ids lie in [0, codebook_size)."""
        return self.config["codebook_size"]

    @property
    def drops_patches(self) -> bool:
        """True: `decode` needs no word of a dropped patch."""
        return True

    def features(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] in [-1, 1] -> features [B, N, width]."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"`images` must be [B, {', '.join(map(str, expected))}], got {list(images.shape)}")
        return self.vit(images.to(device_of(self), self.dtype))

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] -> log odds of keeping each patch, [B, N]."""
        return self._log_odds(self.features(images))

    @torch.no_grad()
    def encode(self, images: Tensor, keep: float | None = None, *, keep_mask: Tensor | None = None) -> KeyframeTokens:
        """images [B, 3, S, S] in [-1, 1] -> their words.

        Args:
            images: float tensor of this model's `image_size`.
            keep: must be None: the selector was trained for one rate.
            keep_mask: bool [B, N]; the caller chooses the patches, at least one a picture.

        Raises:
            ValueError: pictures of another size.
            ModelError: `keep`.
        """
        if keep is not None:
            raise ModelError(
                f"`keep` (={keep}): the published selector decides by itself how much it keeps; leave it out"
            )
        features = self.features(images)
        mask = self.choose(features) if keep_mask is None else keep_mask.to(features.device)
        if mask.shape != features.shape[:2] or mask.dtype != torch.bool or not mask.any(1).all():
            raise ValueError(f"`keep_mask` must be bool {list(features.shape[:2])} and keep a patch of each picture")
        merged = self.merger(features, mask)
        vectors = F.normalize(self.to_code(merged[mask]).float(), dim=-1)
        ids = nearest(vectors, self.words.float())
        return KeyframeTokens(list(ids.cpu().split(mask.sum(1).tolist())), mask.cpu())

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """ids int64 [n_i] a picture -> images [B, 3, S, S] in [-1, 1]; `keep_mask` is not needed.

        Raises:
            ValueError: an id outside the codebook.
            ModelError: weights without a picture detokenizer.
        """
        del keep_mask
        flat = torch.cat(ids)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.codebook_size:
            span = f"{int(flat.min())}..{int(flat.max())}"
            raise ValueError(f"`ids` lie in {span}, this codebook has words 0..{self.codebook_size - 1}")
        if self.painter is None:
            raise ModelError(
                f"these weights have no picture detokenizer ({', '.join(self.lacking) or 'a painter'} missing); "
                "download it too, or give the keyframes themselves, --keyframes-from SOURCE"
            )
        return self.painter.paint([self.words[row.to(self.words.device)] for row in ids])

    @torch.no_grad()
    def language_features(self, images: Tensor, keep_mask: Tensor | None = None) -> list[Tensor]:
        """images [B, 3, S, S] -> what the understanding model reads instead of ids: [n_i, language_width] a picture.

        Args:
            images: float, in [-1, 1].
            keep_mask: bool [B, N], patches that are chosen already.

        Raises:
            ModelError: these weights have no projection into a language model's embeddings.
        """
        if self.to_language is None:
            raise ModelError(
                "these keyframe weights have no features for a language model (vit_proj); read ids instead"
            )
        features = self.features(images)
        mask = self.choose(features) if keep_mask is None else keep_mask.to(features.device)
        merged = self.to_language(self.merger(features, mask))
        return [row[kept] for row, kept in zip(merged, mask, strict=True)]

    def choose(self, features: Tensor) -> Tensor:
        """features [B, N, width] -> which patches to keep, bool [B, N]; the best one of a picture in any case."""
        odds = self._log_odds(features)
        if self.sampling is not None:
            # the difference of two Gumbel variables, which is what hard Gumbel-softmax of two logits compares
            uniform = torch.rand(odds.shape, generator=self.sampling, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            odds = odds + uniform.logit().to(odds)
        return keep_above(odds, odds.new_zeros(()))

    def _log_odds(self, features: Tensor) -> Tensor:
        own, shared = self.selector.local(features).chunk(2, dim=-1)
        whole = shared.mean(dim=1, keepdim=True).expand_as(shared)
        kept, dropped = self.selector.judge(torch.cat([own, whole], dim=-1)).float().unbind(-1)
        return kept - dropped
