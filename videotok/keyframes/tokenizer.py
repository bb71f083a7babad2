"""Keyframes to visual words and back: few words for a plain picture, more for a busy one.

Words chosen by what they decode to, not by where the encoder points alone (analysis by synthesis).

The encoder never sees the picture that its words give. Search does: it decodes them, asks which way each word would
have to move for the picture to come nearer (the gradient of the squared error), moves the vectors a little that way
and reads the nearest words again. The best words met are kept, so a search never makes a picture worse.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from motion_vq.model_base import VideotokModel
from motion_vq.vector_quantizer import Codebook
from videotok.keyframes.detokenizer import KeyframeDetokenizer
from videotok.keyframes.selector import Merger, Selector, Thresholds, keep_above, keep_best, pack
from videotok.keyframes.vit import VisionTransformer


@dataclass(frozen=True)
class KeyframeTokens:
    """The words of a batch of keyframes, and the patches they stand at."""

    ids: list[Tensor]
    """One int64 [n_i] a picture, in raster order of the kept patches; ids from 0."""
    keep_mask: Tensor
    """bool [B, N]: which patches were kept; row i holds n_i of them."""

    def __repr__(self) -> str:
        return f"KeyframeTokens({[len(ids) for ids in self.ids]} of {self.keep_mask.shape[1]} patches)"


class KeyframeTokenizer(VideotokModel):
    """Dynamic visual tokenizer after LaVIT (arXiv 2309.04669), with a detokenizer to pixels.

        images [B, 3, S, S] in [-1, 1]
          │ vision transformer                    features [B, N, width]
          │ selector ─► what each patch saves     keep_mask bool [B, N]
          │ merger: kept tokens take in the rest  [B, n, width]
          │ Linear, then length one               [B, n, code_dim]
          ▼ nearest word of the codebook          ids int64 [n_i] a picture
          │ detokenizer: words at their patches, the others filled
          ▼
        images [B, 3, S, S] in [-1, 1]

    Nothing is drawn at random when encoding. Rounding could still decide between two words or two patches that lie
    equally near; in float64 (`model.double()`) ids are the same in any batch and on any number of threads.

    The defaults are the weights that ship. LaVIT's published size is
    `KeyframeTokenizer(image_size=224, patch_size=14, width=1408, depth=40, heads=16, hidden=6144, merger_depth=12,
    decoder_width=1408, decoder_depth=12, decoder_heads=16, decoder_hidden=6144, cells=2)`.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        width: int = 256,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 1024,
        merger_depth: int = 1,
        codebook_size: int = 16384,
        code_dim: int = 32,
        decoder_width: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 4,
        decoder_hidden: int = 1024,
        cells: int = 4,
        cell_width: int = 64,
        default_keep: float = 0.5,
        search: int = 0,
    ) -> None:
        """Sizes of every part.

        Args:
            image_size: side of the square pictures, in pixels.
            patch_size: side of a patch, in pixels; must divide `image_size`.
            width, depth, heads, hidden: of the vision transformer; the merger has the same width, heads and hidden.
            merger_depth: blocks of the merger.
            codebook_size, code_dim: words, and numbers a word.
            decoder_width, decoder_depth, decoder_heads, decoder_hidden: of the detokenizer's transformer.
            cells, cell_width: the detokenizer's convolutions see `cells` x `cells` cells a patch, `cell_width` wide.
            default_keep: part of all patches that is kept where the caller does not say, 0 < default_keep <= 1.
            search: steps in which `encode` looks for better words (search.py) where the caller does not say, from 0.

        Raises:
            ValueError: a size does not divide the one it must.
        """
        super().__init__()
        for part, whole in (
            ("patch_size", "image_size"),
            ("heads", "width"),
            ("decoder_heads", "decoder_width"),
            ("cells", "patch_size"),
        ):
            if self.config[whole] % self.config[part]:
                raise ValueError(f"`{part}` (={self.config[part]}) must divide `{whole}` (={self.config[whole]})")
        self.vit = VisionTransformer(image_size, patch_size, width, depth, heads, hidden)
        self.selector = Selector(width, image_size // patch_size)
        self.thresholds = Thresholds()
        self.merger = Merger(width, merger_depth, heads, hidden)
        self.to_code = nn.Linear(width, code_dim)
        self.codebook = Codebook(codebook_size, code_dim)
        self.detokenizer = KeyframeDetokenizer(
            image_size,
            patch_size,
            code_dim,
            decoder_width,
            decoder_depth,
            decoder_heads,
            decoder_hidden,
            cells,
            cell_width,
            width,
        )

    @property
    def image_size(self) -> int:
        """Side of the square pictures this model takes and gives, in pixels."""
        return self.config["image_size"]

    @property
    def num_patches(self) -> int:
        """Patches of a picture: the most words a keyframe can have."""
        return (self.image_size // self.config["patch_size"]) ** 2

    @property
    def codebook_size(self) -> int:
        """Number of words; ids lie in [0, codebook_size)."""
        return self.config["codebook_size"]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        side = self.image_size // self.config["patch_size"]
        return side, side

    @property
    def drops_patches(self) -> bool:
        """True: `decode` fills the patches that have no word."""
        return True

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] in [-1, 1] -> what keeping each patch is worth, [B, N]; comparable between pictures."""
        return self.selector.scores(self.features(images))

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        keep: float | None = None,
        *,
        num_tokens: int | None = None,
        keep_mask: Tensor | None = None,
        search: int | None = None,
    ) -> KeyframeTokens:
        """images [B, 3, S, S] in [-1, 1] -> their words.

        Args:
            images: float tensor of this model's `image_size`.
            keep: part of all patches to keep, 0 < keep <= 1, on the average over many pictures: a plain picture gets
                fewer, a busy one more. None: the model's default.
            num_tokens: exactly so many words a picture instead, 1 to `num_patches`.
            keep_mask: bool [B, num_patches]; the caller chooses the patches, at least one a picture.
            search: steps in which words are sought that decode to a nearer picture (search.py); 0 takes the encoder's
                own. None: the model's default.

        Raises:
            ValueError: pictures of another size, more than one rule given, or a rule out of its range.
        """
        steps: int = self.config["search"] if search is None else search
        if steps < 0:
            raise ValueError(f"`search` (={steps}) counts steps: 0 or more")
        features = self.features(images)
        mask = self._choose(features, keep, num_tokens, keep_mask)
        vectors, present = self.code_vectors(features, mask)
        ids = better_words(self, images, mask, vectors, present, steps) if steps else self.codebook.nearest(vectors)
        return KeyframeTokens([row[there] for row, there in zip(ids, present, strict=True)], mask)

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """ids int64 [n_i] a picture and keep_mask bool [B, N] -> images [B, 3, S, S] in [-1, 1].

        Raises:
            ValueError: an id outside the codebook, or another number of ids than kept patches.
        """
        counts = keep_mask.sum(dim=1).tolist()
        lengths = [len(row) for row in ids]
        if keep_mask.shape != (len(ids), self.num_patches) or counts != lengths:
            raise ValueError(
                f"`keep_mask` {tuple(keep_mask.shape)} keeps {counts} patches for pictures of {lengths} ids; "
                f"expected {(len(ids), self.num_patches)} and one id a kept patch"
            )
        flat = torch.cat(ids)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.codebook_size:
            found = f"{int(flat.min())}..{int(flat.max())}"
            raise ValueError(f"`ids` lie in {found}, this codebook has words 0..{self.codebook_size - 1}")
        keep_mask = keep_mask.to(self.device)
        packed = torch.zeros(keep_mask.shape, dtype=torch.long, device=self.device)
        packed[keep_mask] = flat.to(self.device)
        packed, present = pack(packed[..., None], keep_mask)
        return self.detokenizer(self.codebook(packed[..., 0]), present, keep_mask).clamp(-1, 1)

    def forward(self, images: Tensor, keep: float | None = None) -> Tensor:
        """There and back: images [B, 3, S, S] -> what their words say of them."""
        tokens = self.encode(images, keep)
        return self.decode(tokens.ids, tokens.keep_mask)

    def features(self, images: Tensor) -> Tensor:
        """images [B, 3, S, S] -> features [B, N, width]."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"`images` must be [B, {', '.join(map(str, expected))}], got {list(images.shape)}")
        return self.vit(images.to(self.device, self.dtype))

    def code_vectors(self, features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """features [B, N, width], keep_mask bool [B, N] -> unit vectors [B, n, code_dim], present bool [B, n]."""
        merged, present = self.merger(features, keep_mask)
        # neighbouring words differ in the third digit: more than bfloat16 holds when training in mixed precision
        with torch.autocast(merged.device.type, enabled=False):
            return F.normalize(self.to_code(merged.to(self.dtype)), dim=-1), present

    def _choose(self, features: Tensor, keep: float | None, num_tokens: int | None, keep_mask: Tensor | None) -> Tensor:
        if sum(rule is not None for rule in (keep, num_tokens, keep_mask)) > 1:
            raise ValueError("give only one of `keep`, `num_tokens` and `keep_mask`")
        if keep_mask is not None:
            keep_mask = keep_mask.to(features.device)
            if keep_mask.shape != features.shape[:2] or keep_mask.dtype != torch.bool or not keep_mask.any(1).all():
                raise ValueError(
                    f"`keep_mask` must be bool {list(features.shape[:2])} and keep a patch of each picture"
                )
            return keep_mask
        scores = self.selector.scores(features)
        if num_tokens is not None:
            if not 1 <= num_tokens <= self.num_patches:
                raise ValueError(f"`num_tokens` (={num_tokens}) must lie in 1..{self.num_patches}")
            return keep_best(scores, torch.full((len(scores),), num_tokens, device=scores.device))
        part: float = self.config["default_keep"] if keep is None else keep
        if not 0 < part <= 1:
            raise ValueError(f"`keep` (={keep}) is the part of all patches to keep: above 0, at most 1")
        return keep_above(scores, self.thresholds(part))


STRIDE = 0.016
"""Length of the first step of a picture's mean word, on the sphere; a vector lies some 0.1 from its word."""


def better_words(
    model: "KeyframeTokenizer", images: Tensor, keep_mask: Tensor, vectors: Tensor, present: Tensor, steps: int
) -> Tensor:
    """Words for `images` [B, 3, S, S] after `steps` steps from `vectors` [B, n, code_dim]: ids int64 [B, n].

    Nothing is drawn at random. A step costs about three decodings.
    """
    images = images.to(vectors)
    ids = model.codebook.nearest(vectors)
    best, least = ids, torch.full((len(images),), torch.inf, device=images.device, dtype=vectors.dtype)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            words = model.codebook(ids).requires_grad_(step < steps)
            restored = model.detokenizer(words, present, keep_mask)
            errors = (restored - images).square().mean(dim=(1, 2, 3))
        nearer = errors.detach() < least
        best = torch.where(nearer[:, None], ids, best)
        least = torch.where(nearer, errors.detach(), least)
        if step < steps:
            (downhill,) = torch.autograd.grad(errors, words, torch.ones_like(errors))
            lengths = (downhill.norm(dim=-1) * present).sum(dim=1) / present.sum(dim=1)
            stride = STRIDE * (1 - 0.5 * step / steps)
            vectors = F.normalize(vectors - stride * downhill / lengths[:, None, None].clamp(min=1e-30), dim=-1)
            ids = model.codebook.nearest(vectors)
    return best
