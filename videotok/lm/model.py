"""VideoLanguageModel: a causal language model that reads video, as ids or as continuous features."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from codec import atomic_path
from videotok.config import EncodeConfig, MotionSourceChoice
from videotok.errors import ModelError, TokensError, first_line
from videotok.io_utils import read_json, write_json
from videotok.lm.chat import ChatTemplate, Prompt
from videotok.lm.packing import IGNORED, PackedBatch, evenly_spaced
from videotok.lm.tokenizer_extension import embedding_table
from videotok.tokens import VideoTokens
from videotok.vocabulary import Vocabulary

VIDEO_CONFIG_NAME, PROJECTIONS_NAME = "videotok.json", "videotok.safetensors"
"""Files beside the language model's own."""
FORMAT = 2
"""Of both files. Format 1 has the same content under the older names in the tables below."""
RENAMED_SETTINGS = {"motion_levels": "motion_quantizers"}
RENAMED_PARAMETERS = {"first": "linear_in", "second": "linear_out", "spread": "std", "size": "scale"}


class FeatureProjection(nn.Module):
    """Feature vectors [m, dim] -> embeddings [m, width]: standardize, Linear, GELU, Linear, scale."""

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("scale", torch.ones(()))
        self.linear_in = nn.Linear(dim, width)
        self.linear_out = nn.Linear(width, width)

    @torch.no_grad()
    def initialize(self, features: Tensor, embeddings: Tensor) -> None:
        """Set mean and standard deviation of features [m, dim], and the scale to that of embeddings [n, width]."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp(min=1e-4))
        self.scale.copy_(embeddings.float().std() / self(features).std().clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings [m, width] of features [m, dim]."""
        standardized = (features - self.mean) / self.std
        return self.linear_out(F.gelu(self.linear_in(standardized))) * self.scale


@dataclass(frozen=True)
class VideoSettings:
    """How a language model's videos are encoded: the same when it is asked as when it was trained.

    Raises:
        ValueError: an option out of range, see `EncodeConfig`.
    """

    fps: str = "6"
    """Frames a second of a clip's 24 frames."""
    motion_quantizers: int = 1
    """Residual quantizers of motion ids."""
    max_clips: int | None = 8
    """Clips of a longer video that are read, evenly spaced. None: all."""
    keyframes_only: bool = False
    """Leave motion out."""
    models: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the `keyframes` and `motion` weights; empty where unknown."""
    motion_source: MotionSourceChoice = "auto"
    """As in `EncodeConfig`."""
    tokens_per_keyframe: int | None = None
    """As in `EncodeConfig`."""
    complete_clips: bool = False
    """Leave out a last clip that is cut off by the end of the video, where there is a clip before it."""
    guidance: float = 1.0
    """Classifier-free guidance of generated video, where the user names none; 1: none."""
    temperature: float = 1.0
    """Sampling temperature of generated video, where the user names none."""
    global_motion_clips: int = 0
    """Clips of a longer video that a question is answered from besides `max_clips`: between the first and the last one,
    which are read whole, their global motion alone."""

    def __post_init__(self) -> None:
        _ = self.encode_config

    @classmethod
    def video_lavit(cls) -> Self:
        """Return the settings of Video-LaVIT's understanding model: 6 frames a second, MPEG-4 vectors, 16 clips."""
        return cls(max_clips=16, motion_source="mpeg4")

    @property
    def encode_config(self) -> EncodeConfig:
        """How a video is encoded: with independent keyframes, since a model may read only some of the clips."""
        return EncodeConfig(
            fps=Fraction(self.fps),
            motion_quantizers=self.motion_quantizers,
            motion_source=self.motion_source,
            tokens_per_keyframe=self.tokens_per_keyframe,
            predict_keyframes=False,
        )

    def clips(self, tokens: VideoTokens, limit: int | None = None) -> list[int]:
        """Return the numbers of the clips that are read of a video, evenly spaced, at most `limit` or `max_clips`."""
        count = tokens.num_clips
        if self.complete_clips and count > 1 and tokens.num_frames[-1] < tokens.spec.frames:
            count -= 1
        return evenly_spaced(count, self.max_clips if limit is None else limit)

    def whole_clips(self, clips: Sequence[int]) -> list[bool]:
        """Return which of the clips of a question are read whole; of the others the global motion alone."""
        if not self.global_motion_clips or self.max_clips is None:
            return [True] * len(clips)
        ends = set(evenly_spaced(len(clips), self.max_clips))
        return [place in ends for place in range(len(clips))]

    def question_clips(self, tokens: VideoTokens) -> list[int]:
        """Return the numbers of the clips that a question about a video is answered from."""
        return self.clips(tokens, None if self.max_clips is None else self.max_clips + self.global_motion_clips)

    def check(self, tokens: VideoTokens) -> None:
        """Check that tokens were made with the weights that the language model knows.

        Raises:
            TokensError: they were made with others.
        """
        for part, expected in self.models.items():
            found = tokens.models[part].sha256
            if found != expected:
                raise TokensError(
                    f"tokens of {tokens.source.file} were made with {part} weights {found[:12]}, this language model "
                    f"was trained on those of {expected[:12]}; encode the video with those weights"
                )


class VideoLanguageModel(nn.Module):
    """A causal language model, its text tokenizer, and its vocabulary of video.

    ids ────────────────────► embeddings ─┐
    features ─► FeatureProjection ────────┴─► language model ─► logits of the next id

    Features replace the embeddings of their ids.

    Args:
        model: its embeddings have a row for every id of the vocabulary.
        tokenizer: of the text.
        vocabulary: the id space (`videotok.lm.tokenizer_extension`).
        prompt: the format of conversations; None: the tokenizer's chat template if it has one, else `Prompt()`.
        settings: how videos are encoded; None: the defaults.
        features: kind -> width of the features that are read instead of ids; None as width: features that the video
            tokenizer projects itself. No features: ids alone.

    Raises:
        ValueError: the model has fewer embeddings than the vocabulary has ids.
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
        super().__init__()
        rows = len(embedding_table(model))
        if rows < vocabulary.size:
            raise ValueError(
                f"the model has {rows} embeddings, the vocabulary {vocabulary.size} ids; `extend` the model first"
            )
        self.model, self.tokenizer, self.vocabulary = model, tokenizer, vocabulary
        self.prompt = prompt or (ChatTemplate() if tokenizer.chat_template else Prompt())
        self.settings = settings or VideoSettings()
        self.set_features(features or {})

    def set_features(self, features: Mapping[str, int | None]) -> None:
        """Read features of these kinds instead of ids, and of no others; see the constructor."""
        width = embedding_table(self.model).shape[1]
        self.projections = nn.ModuleDict(
            {kind: nn.Identity() if dim is None else FeatureProjection(dim, width) for kind, dim in features.items()}
        )

    def initialize_projection(self, kind: str, features: Tensor) -> None:
        """Initialize the projection of a kind from features [m, dim]; nothing to do where there is none."""
        projection = self.projections[kind]
        if isinstance(projection, FeatureProjection):
            projection.initialize(features, embedding_table(self.model)[: self.vocabulary.text_size])

    @property
    def padding_id(self) -> int:
        """Id of padding at the end of a row."""
        found = self.tokenizer.pad_token_id
        return found if isinstance(found, int) else 0

    @property
    def device(self) -> torch.device:
        """Device of the language model."""
        return self.model.device

    @property
    def feature_kinds(self) -> tuple[str, ...]:
        """Kinds that are read as features and not as ids."""
        return tuple(self.projections)

    def embed(self, ids: Tensor, features: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Return the input embeddings of a batch, [B, L, width].

        Args:
            ids: int64 [B, L].
            features: as in `PackedBatch`.

        Raises:
            TokensError: features of a kind that this model does not read.
        """
        embedded = self.model.get_input_embeddings()(ids)
        flat = embedded.flatten(0, 1)
        for kind, (positions, values) in features.items():
            if kind not in self.projections:
                raise TokensError(
                    f"this language model reads {kind} ids and no {kind} features; leave the features out"
                )
            flat = flat.index_copy(0, positions, self.projections[kind](values).to(flat.dtype))
        return flat.view_as(embedded)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the mean cross-entropy of a batch's targets in nats, []."""
        # the logits at a position predict the id after it
        labels = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
        positions = (labels != IGNORED).flatten().nonzero()[:, 0]

        def select_positions(head: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            return inputs[0].flatten(0, 1)[None, positions]

        # With tens of thousands of ids the output head is most of a small model's work, so it runs only where there is
        # a target. By a hook, so that whatever the model does to its logits after the head is still done.
        head = cast(nn.Module, self.model.get_output_embeddings())
        hook = head.register_forward_pre_hook(select_positions)
        try:
            logits = self.model(
                inputs_embeds=self.embed(batch.ids, batch.features),
                attention_mask=self._attention_mask(batch),
                position_ids=batch.position_ids,
                use_cache=False,
            ).logits
        finally:
            hook.remove()
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()[positions])

    def legal_losses(self, batch: PackedBatch, *, fixed_visual: bool = False) -> dict[str, Tensor]:
        """Return the cross-entropy in nats of each target among the ids that are legal in its place, by kind of id.

        That is what generation samples from (`videotok.lm.grammar`, and text alone in answers), it costs a fraction of
        a head over all ids, and nothing has to be learned that the place already says: markers, of which no place
        leaves a choice, have no loss. Only for models whose output head is one matrix without a bias.

        Args:
            batch: rows of documents with independent keyframes.
            fixed_visual: no gradient to the head's rows of visual ids, which is much of the work.

        Returns:
            Kind (`text`, `keyframe`, `global motion`, `motion`) -> float [targets of that kind].
        """
        hidden = self.model.base_model(
            inputs_embeds=self.embed(batch.ids, batch.features),
            attention_mask=self._attention_mask(batch),
            position_ids=batch.position_ids,
            use_cache=False,
        )[0].flatten(0, 1)
        labels = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()
        head = cast(Tensor, cast(nn.Module, self.model.get_output_embeddings()).weight)
        found: dict[str, list[Tensor]] = {}
        for kind, ids, rows in self._head_parts(head, fixed_visual):
            where = torch.isin(labels, ids).nonzero()[:, 0] if kind == "keyframe" else _between(labels, ids)
            if len(where):
                logits = F.linear(hidden[where], rows).float()
                targets = torch.searchsorted(ids, labels[where])
                found.setdefault(kind, []).append(F.cross_entropy(logits, targets, reduction="none"))
        return {kind: torch.cat(parts) for kind, parts in found.items()}

    def _head_parts(self, head: Tensor, fixed_visual: bool) -> list[tuple[str, Tensor, Tensor]]:
        """Return (kind, sorted ids [n], their rows of the head [n, width]) of each set of ids that exclude others."""
        vocabulary, rest = self.vocabulary, len(head) - self.vocabulary.size
        spans = vocabulary.spans
        sizes = [vocabulary.text_size, *(span.size for span in spans), rest]
        # one split: a slice for each set would have a gradient of the whole table each
        rows = dict(zip(["text", *(span.name for span in spans), ""], head.split(sizes), strict=True))
        visual = rows["visual"].detach() if fixed_visual else rows["visual"]
        keyframe = [(vocabulary.image_end, 1), (vocabulary.visual.start, vocabulary.visual.size)]
        keyframe += [(vocabulary.drop.start, vocabulary.drop.size)]
        ids = torch.cat([torch.arange(start, start + size, device=head.device) for start, size in keyframe])
        parts = [
            ("text", torch.arange(vocabulary.text_size, device=head.device), rows["text"]),
            ("keyframe", ids, torch.cat([rows["[/IMG]"], visual, rows["drop"]])),
        ]
        for span, size in (
            (vocabulary.motion, vocabulary.motion_size),
            (vocabulary.global_motion, vocabulary.global_motion_size),
        ):
            for number, part in enumerate(rows[span.name].split(size) if size else ()):
                start = span.start + number * size
                parts.append((span.name, torch.arange(start, start + size, device=head.device), part))
        return parts

    def _attention_mask(self, batch: PackedBatch) -> Tensor:
        mask = batch.attention_mask()
        if self.model.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(~mask, lowest)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the language model and its tokenizer as transformers does, and beside them what belongs to video."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        config: dict[str, Any] = {
            "format": FORMAT,
            "vocabulary": self.vocabulary.to_dict(),
            "prompt": self.prompt.to_dict() if isinstance(self.prompt, Prompt) else None,
            "video": asdict(self.settings),
            "features": {
                kind: projection.dim if isinstance(projection, FeatureProjection) else None
                for kind, projection in self.projections.items()
            },
        }
        if tensors := {name: tensor.contiguous() for name, tensor in self.projections.state_dict().items()}:
            with atomic_path(folder / PROJECTIONS_NAME) as temporary:
                save_file(tensors, temporary)
        write_json(folder / VIDEO_CONFIG_NAME, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> Self:
        """Load a folder of `videotok lm train`, or a converted `language_model` folder of Video-LaVIT.

        The latter reads keyframes as features where the visual tokenizer that it was trained with lies in its folder.

        Args:
            folder: nothing is downloaded.
            dtype: of the weights; None: as they were saved.

        Raises:
            ModelError: no such folder, a language model without a vocabulary of video, or a damaged file.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"no language model in {folder}: config.json is missing; `videotok lm train` makes one")
        if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("model*.safetensors")):
            raise ModelError(
                f"{folder} has pickled weights, which are not loaded here; `videotok convert` rewrites them"
            )
        try:
            model = load_causal_lm(folder, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"cannot load {folder}: {first_line(error)}") from error
        if (folder / VIDEO_CONFIG_NAME).is_file():
            return cls._from_video_config(folder, model, tokenizer).eval()
        vocabulary, width = Vocabulary.published(), embedding_table(model).shape[1]
        if len(embedding_table(model)) != vocabulary.size:
            raise ModelError(
                f"{folder} is a language model without video: {VIDEO_CONFIG_NAME} is missing; "
                "`videotok lm train` trains it on video"
            )
        features = {"visual": None} if embedded_feature_width(folder) == width else None
        return cls(model, tokenizer, vocabulary, Prompt.video_lavit(), VideoSettings.video_lavit(), features).eval()

    @classmethod
    def _from_video_config(cls, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Self:
        path = folder / VIDEO_CONFIG_NAME
        try:
            config = read_json(path)
            if config["format"] not in (1, FORMAT):
                raise ModelError(f"{path} has format {config['format']}, this videotok reads 1 to {FORMAT}; update it")
            prompt = ChatTemplate() if config["prompt"] is None else Prompt(**config["prompt"])
            settings: dict[str, Any] = config["video"]
            settings = {RENAMED_SETTINGS.get(name, name): value for name, value in settings.items()}
            vocabulary = Vocabulary.from_dict(config["vocabulary"])
            found = cls(model, tokenizer, vocabulary, prompt, VideoSettings(**settings), config["features"])
            if found.projections.state_dict():
                found.projections.load_state_dict(_load_projections(folder / PROJECTIONS_NAME))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise ModelError(f"{path} does not fit the language model beside it: {first_line(error)}") from error
        return found


def _between(labels: Tensor, ids: Tensor) -> Tensor:
    """Return the positions [m] of labels [n] in a run of consecutive ids."""
    return ((labels >= ids[0]) & (labels <= ids[-1])).nonzero()[:, 0]


def _load_projections(path: Path) -> dict[str, Tensor]:
    """Load the projections' tensors under today's names."""
    return {
        ".".join(RENAMED_PARAMETERS.get(part, part) for part in name.split(".")): tensor
        for name, tensor in load_file(path).items()
    }


def embedded_feature_width(folder: Path) -> int:
    """Return the width of the keyframe features that a language model's embedded tokenizers give; 0: it has none.

    Embedded tokenizers are those that a language model was trained with and that lie in its folder (`keyframes` and
    `motion` below it).
    """
    path = folder / "keyframes" / "config.json"
    if not path.is_file() or not (folder / "motion" / "config.json").is_file():
        return 0
    return int(read_json(path).get("language_width", 0))


def load_causal_lm(name_or_folder: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load any causal language model of a folder or a hub id, from safetensors alone; `dtype` None: as saved."""
    argument = "dtype" if int(version("transformers").split(".")[0]) >= 5 else "torch_dtype"
    return AutoModelForCausalLM.from_pretrained(name_or_folder, **{argument: dtype or "auto"}, use_safetensors=True)
