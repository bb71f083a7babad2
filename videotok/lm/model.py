"""Features of pictures and motion, as wide as a language model's embeddings.

VideoLanguageModel: a causal language model that reads video, either as ids or as features.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from codec import atomic_path
from videotok.errors import ModelError, TokensError
from videotok.lm.chat import ChatTemplate, Prompt
from videotok.lm.packing import IGNORED, Packed
from videotok.lm.tokenizer_extension import embeddings
from videotok.tokens import VideoTokens
from videotok.vocabulary import Vocabulary


class Projection(nn.Module):
    """features [m, dim] -> [m, width]: standardised, Linear, GELU, Linear."""

    mean: Tensor
    spread: Tensor
    size: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("size", torch.ones(()))
        self.first = nn.Linear(dim, width)
        self.second = nn.Linear(width, width)

    @torch.no_grad()
    def start(self, features: Tensor, embeddings: Tensor) -> None:
        """From data: features [m, dim] become standard, and what comes out as large as embeddings [n, width]."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp(min=1e-4))
        self.size.copy_(embeddings.float().std() / self(features).std().clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        standard = (features - self.mean) / self.spread
        return self.second(nn.functional.gelu(self.first(standard))) * self.size


FACTS, FEATURES = "videotok.json", "videotok.safetensors"
"""Beside the language model's own files."""
FORMAT = 1


@dataclass(frozen=True)
class VideoSettings:
    """How a video is encoded for a language model, so that asking does what training did."""

    fps: str = "6"
    """Frames a second of a clip's 24 frames."""
    motion_quantizers: int = 1
    max_clips: int | None = 8
    """Of a longer video so many, spread evenly."""
    keyframes_only: bool = False
    models: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the `keyframes` and `motion` weights; empty where nobody knows."""
    motion_source: str = "auto"
    """As for `VideoTokenizer.encode`."""

    @classmethod
    def published(cls) -> Self:
        """As Video-LaVIT's understanding model is shown videos: 6 frames a second, MPEG-4 vectors, 16 clips at most."""
        return cls(max_clips=16, motion_source="mpeg4")

    def check(self, tokens: VideoTokens) -> None:
        """Raises TokensError where tokens were made with other weights than the language model knows."""
        for part, wanted in self.models.items():
            found = tokens.models[part].sha256
            if found != wanted:
                raise TokensError(
                    f"tokens of {tokens.source.file} were made with {part} weights {found[:12]}, this language model "
                    f"learned those of {wanted[:12]}; encode the video with the weights it was trained on (--model)"
                )


class VideoLanguageModel(nn.Module):
    """A language model, its tokenizer, and what it knows of video.

    ids ──► embeddings ─┐
    features ─► Projection ─► in the places of their ids ─┴─► language model ─► next id
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        prompt: Prompt | ChatTemplate | None = None,
        settings: VideoSettings | None = None,
        features: Mapping[str, int | None] | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            model: whose embeddings have a row for each id of the vocabulary.
            tokenizer: of its text.
            vocabulary: the id space (`videotok.lm.tokenizer_extension`).
            prompt: how conversations are written; the tokenizer's chat template where it has one, else `Prompt()`.
            settings: how videos are encoded.
            features: numbers a feature of each kind that is read instead of its ids' embeddings; None where features
                come as embeddings, projected by the video tokenizer itself.

        Raises:
            ValueError: the model has fewer embeddings than the vocabulary has ids.
        """
        super().__init__()
        rows = len(embeddings(model))
        if rows < vocabulary.size:
            raise ValueError(
                f"the model has {rows} embeddings, the vocabulary {vocabulary.size} ids; `extend` it first"
            )
        self.model, self.tokenizer, self.vocabulary = model, tokenizer, vocabulary
        self.prompt = prompt or (ChatTemplate() if tokenizer.chat_template else Prompt())
        self.settings = settings or VideoSettings()
        self.read(features or {})

    def read(self, features: Mapping[str, int | None]) -> None:
        """From now on features of these kinds, and no others, stand for their ids; arguments as above."""
        width = embeddings(self.model).shape[1]
        made = {kind: nn.Identity() if dim is None else Projection(dim, width) for kind, dim in features.items()}
        self.projections = nn.ModuleDict(made)

    @property
    def padding(self) -> int:
        """Id that stands where a row has nothing."""
        found = self.tokenizer.pad_token_id
        return found if isinstance(found, int) else 0

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def feature_kinds(self) -> tuple[str, ...]:
        """What is read as features and not as ids."""
        return tuple(self.projections)

    def embed(self, ids: Tensor, features: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """ids int64 [B, L] and features (as in `Packed`) -> [B, L, width].

        Raises:
            TokensError: features of a kind that this model has not learned to read.
        """
        embedded = self.model.get_input_embeddings()(ids)
        flat = embedded.flatten(0, 1)
        for kind, (places, values) in features.items():
            if kind not in self.projections:
                raise TokensError(
                    f"this language model reads {kind} ids and no {kind} features; leave the features out"
                )
            flat = flat.index_copy(0, places, self.projections[kind](values).to(flat.dtype))
        return flat.view_as(embedded)

    def forward(self, batch: Packed) -> Tensor:
        """Mean cross-entropy in nats over what is to be learned, []."""
        # the logit at a place is the guess of the id after it
        wanted = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
        asked = (wanted != IGNORED).flatten().nonzero()[:, 0]

        def only_asked(head: nn.Module, hidden: tuple[Tensor, ...]) -> Tensor:
            return hidden[0].flatten(0, 1)[None, asked]

        # a head of tens of thousands of ids is most of a small model's work: it works only where it is asked. A hook,
        # so that whatever a model does to its logits after the head is still done.
        output = cast(nn.Module, self.model.get_output_embeddings())
        hook = output.register_forward_pre_hook(only_asked)
        try:
            logits = self.model(
                inputs_embeds=self.embed(batch.ids, batch.features),
                attention_mask=self._attention(batch),
                position_ids=batch.position_ids,
                use_cache=False,
            ).logits
        finally:
            hook.remove()
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten()[asked])

    def _attention(self, batch: Packed) -> Tensor:
        mask = batch.mask()
        if self.model.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(~mask, lowest)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the language model and its tokenizer as transformers does, and beside them what is of video."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        facts: dict[str, Any] = {
            "format": FORMAT,
            "vocabulary": self.vocabulary.facts(),
            "prompt": self.prompt.facts() if isinstance(self.prompt, Prompt) else None,
            "video": asdict(self.settings),
            "features": {kind: getattr(projection, "dim", None) for kind, projection in self.projections.items()},
        }
        if tensors := {name: tensor.contiguous() for name, tensor in self.projections.state_dict().items()}:
            with atomic_path(folder / FEATURES) as temporary:
                save_file(tensors, temporary)
        with atomic_path(folder / FACTS) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> Self:
        """A folder that `videotok lm train` wrote, or a converted `language_model` folder of Video-LaVIT's.

        The latter reads keyframes as features where the visual tokenizer it was embedded_tokenizers with lies in its folder.

        Args:
            folder: nothing is downloaded.
            dtype: of the weights; as they were saved where not given.

        Raises:
            ModelError: no such folder, or a language model that knows nothing of video.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"no language model in {folder}: config.json is missing; `videotok lm train` makes one")
        if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("model*.safetensors")):
            raise ModelError(
                f"{folder} has pickled weights, which are not loaded here; `videotok convert` rewrites them"
            )
        try:
            model = load_causal(folder, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"cannot load {folder}: {str(error).strip().splitlines()[0]}") from error
        if (folder / FACTS).is_file():
            return cls._with_facts(folder, model, tokenizer)
        published = Vocabulary.published()
        if len(embeddings(model)) != published.size:
            raise ModelError(f"{folder} knows nothing of video: {FACTS} is missing; `videotok lm train` teaches it")
        features = {"visual": None} if own_width(folder) == embeddings(model).shape[1] else None
        return cls(model, tokenizer, published, Prompt.published(), VideoSettings.published(), features).eval()

    @classmethod
    def _with_facts(cls, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Self:
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ModelError(
                    f"{folder / FACTS} has format {facts['format']}, this videotok reads {FORMAT}; update it"
                )
            prompt = ChatTemplate() if facts["prompt"] is None else Prompt(**facts["prompt"])
            settings = VideoSettings(**facts["video"])
            found = cls(model, tokenizer, Vocabulary(**facts["vocabulary"]), prompt, settings, facts["features"])
            if found.projections.state_dict():
                found.projections.load_state_dict(load_file(folder / FEATURES))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{folder / FACTS} does not fit the language model beside it: {reason}") from error
        return found.eval()


def own_width(folder: Path) -> int:
    """Numbers a keyframe feature of the visual tokenizer that lies in a language model's folder; 0: there is none."""
    path = folder / "keyframes" / "config.json"
    if not path.is_file() or not (folder / "motion" / "config.json").is_file():
        return 0
    return int(json.loads(path.read_text(encoding="utf-8")).get("language_width", 0))


def load_causal(folder: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Any causal language model of a folder or a hub id, from safetensors alone."""
    name = "dtype" if int(version("transformers").split(".")[0]) >= 5 else "torch_dtype"
    return AutoModelForCausalLM.from_pretrained(folder, **{name: dtype or "auto"}, use_safetensors=True)
