"""Bundle: the folder that the weights of the three models are in, and how each of them is loaded.

A bundle is the one that ships, a folder, or a hub id. `PublishedBundle` is a folder or hub id with the published
Video-LaVIT weights, read as they are. `load_keyframes` knows which class reads a folder of keyframe weights.
"""

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from videotok import hub
from videotok.errors import ModelError, TokensError, first_line
from videotok.io_utils import read_json, weights_sha256
from videotok.model_card import PartFacts, write_card, write_config
from videotok.tokens import TOKENIZERS, ModelIdentity, VideoTokens

if TYPE_CHECKING:  # a bundle is found, and refused, before torch is loaded
    import torch
    from diffusers.models.modeling_utils import ModelMixin

    from unet3d import LatentVideoDetokenizer, VideoDetokenizer
    from videotok.keyframes.protocol import KeyframeTokenizerProtocol
    from videotok.lavit.checkpoint import LavitCheckpoint

ENTRY_POINTS = "videotok.keyframes"
"""Entry point group under which other packages register keyframe tokenizers."""

Loader = Callable[[Path, "torch.dtype"], "KeyframeTokenizerProtocol"]
"""(folder, dtype of the weights) -> a tokenizer, ready to run. May raise OSError, ValueError, RuntimeError."""


def load_keyframes(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    """Load the keyframe tokenizer of a folder by the class that `_class_name` in its config.json names.

    Classes that videotok does not know are looked up among the entry points of the group `videotok.keyframes`. A
    package that brings one says in its pyproject.toml::

        [project.entry-points."videotok.keyframes"]
        MyTokenizer = "my_package:load"  # load(folder: Path, dtype: torch.dtype) -> KeyframeTokenizerProtocol

    Raises:
        ModelError: an unknown class, or an entry point that does not return a `KeyframeTokenizerProtocol`.
        OSError, ValueError, RuntimeError: the folder's files are missing or damaged.
    """
    name = str(read_json(folder / "config.json").get("_class_name"))
    if name in LOADERS:
        return LOADERS[name](folder, dtype)
    registered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in registered:
        known = ", ".join(sorted({*LOADERS, *registered}))
        raise ModelError(
            f"{folder / 'config.json'} names the class {name}; known keyframe tokenizers are {known}; "
            f"other classes need a package that registers them under {ENTRY_POINTS}"
        )
    from videotok.keyframes.protocol import KeyframeTokenizerProtocol

    tokenizer = registered[name].load()(folder, dtype)
    if not isinstance(tokenizer, KeyframeTokenizerProtocol):
        missing = [part for part in dir(KeyframeTokenizerProtocol) if part[0] != "_" and not hasattr(tokenizer, part)]
        raise ModelError(f"{name} of {registered[name].value} is no keyframe tokenizer: it has no {', '.join(missing)}")
    return tokenizer


def _own(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.keyframes.tokenizer import KeyframeTokenizer

    model = KeyframeTokenizer.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    return model.eval().requires_grad_(False)


def _vqmodel(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.keyframes.vqmodel import VQModelTokenizer

    return VQModelTokenizer.from_pretrained(folder, dtype)


def _lavit(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.lavit.loading import load_lavit_keyframes

    return load_lavit_keyframes(folder, dtype)


LOADERS: dict[str, Loader] = {
    "KeyframeTokenizer": _own,
    "LavitKeyframeTokenizer": _lavit,
    "LavitKeyframes": _lavit,  # its name in folders converted earlier
    "VQModel": _vqmodel,
}


SHIPPED = Path(__file__).parent / "weights"
PARTS = ("keyframes", "motion", "detokenizer")
PUBLISHED = (
    "motion_tokenizer.bin",
    "visual_tokenizer",
    "video_3d_unet.bin",
    "video_detokenizer",
    "image_detokenizer",
    "language_model",
    "language_model_sft",
)
"""Files and folders of the published Video-LaVIT weights; a folder with one of them has that layout."""

Model = TypeVar("Model", bound="ModelMixin")


@dataclass(frozen=True)
class Bundle:
    """A folder with the subfolders `keyframes`, `motion` and `detokenizer`, each with config.json and safetensors."""

    name: str
    """`shipped`, the folder's name, or the hub id."""
    folder: Path
    replaced: Mapping[str, Path] = field(default_factory=dict)
    """Parts that are taken from other folders, and the folder of each."""

    @classmethod
    def find(
        cls, model: str | Path | None, keyframes: str | Path | None = None, revision: str | None = None
    ) -> "Bundle":
        """Return the bundle of a name.

        Args:
            model: None: the one that ships. A folder. Or a hub id, `owner/name`: only then anything is downloaded.
            keyframes: folder of a keyframe tokenizer that replaces the bundle's own.
            revision: branch, tag or commit of the hub id.

        Raises:
            ModelError: no such folder, nothing under that id, or no network.
        """
        bundle = cls._find(model, revision)
        if keyframes is None:
            return bundle
        if not (Path(keyframes) / "config.json").is_file():
            raise ModelError(f"no keyframe tokenizer in {keyframes}: {Path(keyframes) / 'config.json'} is missing")
        return replace(bundle, replaced={"keyframes": Path(keyframes)})

    @classmethod
    def _find(cls, model: str | Path | None, revision: str | None) -> "Bundle":
        if model is None:
            return cls("shipped", SHIPPED)
        folder = Path(model)
        if folder.is_dir():
            name = folder.resolve().name
            if any((folder / part).is_dir() for part in PARTS):
                return cls(name, folder)
            if any((folder / entry).exists() for entry in PUBLISHED):
                return PublishedBundle(name, folder)
            raise ModelError(f"{folder} is not a bundle: it has no subfolder {', '.join(PARTS)}")
        hub_id = hub.check_hub_id(model)
        if any(file.split("/")[0] in PUBLISHED for file in hub.file_names(hub_id, revision)):
            return PublishedBundle(hub_id, Path(hub_id), hub_id=hub_id, revision=revision)
        return cls(hub_id, hub.download(hub_id, ["config.json", "*/*.json", "*/*.safetensors"], revision))

    def load(self, part: str, model_class: type[Model], dtype: "torch.dtype") -> Model:
        """Load one model of the bundle, ready to run, its weights cast to `dtype`.

        Raises:
            ModelError: it is missing, damaged, or of another class.
        """
        with self._loading(part) as folder:
            model = model_class.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
            return model.eval().requires_grad_(False)

    def load_keyframes(self, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
        """Load the keyframe tokenizer, of the class that its config.json names; see `load_keyframes`.

        Raises:
            ModelError: it is missing, damaged, or of an unknown class.
        """
        with self._loading("keyframes") as folder:
            return load_keyframes(folder, dtype)

    def load_detokenizer(self, dtype: "torch.dtype") -> "VideoDetokenizer | LatentVideoDetokenizer":
        """Load the video detokenizer; one that works on latents with its autoencoder and scheduler.

        Raises:
            ModelError: it is missing, damaged, or of another class.
        """
        if not self.decodes_latents:
            from unet3d import VideoDetokenizer

            return self.load("detokenizer", VideoDetokenizer, dtype)
        from unet3d import LatentDenoiser
        from videotok.lavit.loading import load_latent_detokenizer

        denoiser = self.load("detokenizer", LatentDenoiser, dtype)
        with self._loading("detokenizer") as folder:
            return load_latent_detokenizer(denoiser, folder / "vae", folder / "scheduler", dtype)

    @cached_property
    def decodes_latents(self) -> bool:
        """Whether the video detokenizer works on latents (`LatentVideoDetokenizer`) and not on pixels.

        Raises:
            ModelError: it is missing or damaged.
        """
        with self._loading("detokenizer") as folder:
            return bool(read_json(folder / "config.json").get("latent_channels"))

    @contextmanager
    def _loading(self, part: str) -> Iterator[Path]:
        """Give the folder of a part; errors inside become a ModelError: any may come of what config.json says."""
        folder = self._part(part)
        diffusers = logging.getLogger("diffusers")
        level = diffusers.level
        diffusers.setLevel(logging.CRITICAL)  # it logs what it then raises
        try:
            yield folder
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"cannot load {part} of model {self.name}: {first_line(error)}") from error
        finally:
            diffusers.setLevel(level)

    def identity(self, part: str) -> ModelIdentity:
        """Return the name and sha256 of one model.

        Raises:
            ModelError: it is missing.
        """
        with self._loading(part) as folder:
            return ModelIdentity(folder.resolve().name if part in self.replaced else self.name, weights_sha256(folder))

    def has_double_weights(self, part: str) -> bool:
        """Whether a model's file has weights in float64, which a cast to float32 would round."""
        with self._loading(part) as folder:
            return any(tensor.dtype == "F64" for tensor in _stored_tensors(folder))

    def summary(self) -> dict[str, str]:
        """Return the class and the number of parameters of each model that is there, without loading it."""
        return {part: f"{facts.class_name}({facts.parameters / 1e6:.1f}M)" for part, facts in self.facts().items()}

    def facts(self) -> dict[str, PartFacts]:
        """Return the class, size and sha256 of each model that is there, without loading it."""
        found = {}
        for part in PARTS:
            folder = self.replaced.get(part, self.folder / part)
            if not (folder / "config.json").is_file():
                continue
            with self._loading(part):
                name = str(read_json(folder / "config.json").get("_class_name"))
                parameters = sum(tensor.size for tensor in _stored_tensors(folder))
                found[part] = PartFacts(name, parameters, weights_sha256(folder))
        return found

    def save(self, folder: Path, name: str | None = None) -> None:
        """Copy the models to a folder, for `Bundle.find`, with a config.json and a model card of the whole.

        Args:
            name: what the card calls them; the folder's name if None.

        Raises:
            ModelError: the folder is the one that they come from.
        """
        for part in PARTS:
            source, target = self.replaced.get(part, self.folder / part), folder / part
            if target.exists() and target.samefile(source):
                raise ModelError(f"{folder} is where these weights come from; name another folder")
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
        facts = self.facts()
        write_config(folder, facts)
        write_card(folder, name or folder.resolve().name, facts)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, commit_message: str | None = None) -> str:
        """Upload the models to the Hugging Face Hub and return the address of the commit.

        Raises:
            ModelError: the upload was refused, or there is no network.
        """
        hub_id = hub.check_hub_id(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder), hub_id)
            return hub.upload(Path(folder), hub_id, private=private, commit_message=commit_message)

    def check(self, tokens: VideoTokens) -> None:
        """Raise TokensError unless these tokens were made with the weights of this bundle."""
        for part in TOKENIZERS:
            used, own = tokens.models[part], self.identity(part)
            if used.sha256 != own.sha256:
                raise TokensError(
                    f"tokens of {tokens.source.file} were made with {part} weights {used.sha256[:12]} ({used.name}), "
                    f"the model at hand has {own.sha256[:12]} ({own.name}); "
                    "use the right model, or encode the video again"
                )

    def _part(self, part: str) -> Path:
        folder = self.replaced.get(part, self.folder / part)
        if not (folder / "config.json").is_file():
            raise ModelError(f"model {self.name} has no {part}: {folder / 'config.json'} is missing")
        return folder


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor of a safetensors file, by its header."""

    dtype: str
    """As safetensors names it, such as `F16`."""
    size: int
    """Number of values."""


def _stored_tensors(folder: Path) -> Iterator[_StoredTensor]:
    """Read the headers of the safetensors files of a folder.

    Raises:
        ValueError: one of them is damaged.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    tensor = file.get_slice(name)
                    yield _StoredTensor(tensor.get_dtype(), math.prod(tensor.get_shape()))
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error


IMAGE_DECODER_PARTS = ("keyframes/condition", "keyframes/unet", "keyframes/vae", "keyframes/scheduler")
"""Parts that decode keyframes from their codes."""


@dataclass(frozen=True)
class PublishedBundle(Bundle):
    """The published Video-LaVIT weights, complete or in part. A part is loaded, or missed, when it is needed."""

    hub_id: str | None = None
    """Hub id that parts are downloaded from when they are needed; None: all there is, is in the folder."""
    revision: str | None = None
    """Branch, tag or commit of the hub id."""

    @cached_property
    def decodes_latents(self) -> bool:
        """True."""
        return True

    def load(self, part: str, model_class: type, dtype: "torch.dtype") -> Any:
        """Load one part into its class; see `Bundle.load`."""
        from videotok.lavit import weight_map

        checkpoint = self._checkpoint(part)
        tensors = checkpoint.load(part)
        config = checkpoint.config(part, tensors)
        where = ", ".join(path.name for path in checkpoint.files(part))
        entry = weight_map.PARTS[part]
        weight_map.check_keys(entry, weight_map.meta_model(entry, config), tensors.shapes, where, allow_extra=True)
        model = weight_map.build_model(entry, tensors, config, dtype)
        if not isinstance(model, model_class):
            raise ModelError(f"{part} of model {self.name} is a {type(model).__name__}, no {model_class.__name__}")
        return model

    def load_keyframes(self, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
        """Load the keyframe tokenizer; its image decoder is loaded on the first decode."""
        import torch

        from videotok.lavit.checkpoint import HF_FOLDERS
        from videotok.lavit.loading import attach_image_decoder
        from videotok.lavit.modeling_keyframes import LavitKeyframeTokenizer
        from videotok.lavit.weight_map import PARTS as LAVIT_PARTS

        if "keyframes" in self.replaced:
            return super().load_keyframes(dtype)
        dtype = LavitKeyframeTokenizer.encoding_dtype if dtype == torch.float64 else dtype
        model: LavitKeyframeTokenizer = self.load("keyframes", LavitKeyframeTokenizer, dtype)

        def load_image_decoder(dtype: torch.dtype) -> Any:
            checkpoint, load_condition = self._checkpoint(*IMAGE_DECODER_PARTS), None
            if not checkpoint.missing("keyframes/condition"):
                load_condition = partial(self.load, "keyframes/condition", LAVIT_PARTS["keyframes/condition"].model)
            unet, vae, scheduler = (checkpoint.folder / HF_FOLDERS[part] for part in IMAGE_DECODER_PARTS[1:])
            return attach_image_decoder(model, load_condition, unet, vae, scheduler).image_decoder

        model.set_image_decoder(load_image_decoder)
        return model

    def load_detokenizer(self, dtype: "torch.dtype") -> "LatentVideoDetokenizer":
        """Load the video detokenizer with its autoencoder and scheduler."""
        from unet3d import LatentDenoiser
        from videotok.lavit.checkpoint import HF_FOLDERS
        from videotok.lavit.loading import load_latent_detokenizer

        folder = self._checkpoint("detokenizer", "detokenizer/vae", "detokenizer/scheduler").folder
        denoiser = self.load("detokenizer", LatentDenoiser, dtype)
        folders = (folder / HF_FOLDERS["detokenizer/vae"], folder / HF_FOLDERS["detokenizer/scheduler"])
        return load_latent_detokenizer(denoiser, *folders, dtype)

    def identity(self, part: str) -> ModelIdentity:
        """Return the name and sha256 of the published files, which conversion keeps; see `Bundle.identity`."""
        if part in self.replaced:
            return super().identity(part)
        checkpoint = self._checkpoint(part)
        if missing := checkpoint.missing(part):
            raise ModelError(f"model {self.name} has no {part}: {', '.join(missing)} missing; download it too")
        return ModelIdentity(self.name, checkpoint.sha256(part))

    def has_double_weights(self, part: str) -> bool:
        """Return False: what was published is stored in at most float32."""
        return part in self.replaced and super().has_double_weights(part)

    def summary(self) -> dict[str, str]:
        """Return that the weights are the published ones."""
        return {part: "published" for part in PARTS}

    def save(self, folder: Path, name: str | None = None) -> None:
        """Convert the published weights to a folder for `Bundle.find`; see `videotok.lavit.conversion.convert`."""
        from videotok.lavit.conversion import convert

        del name  # their authors have a card of their own
        convert(self.folder if self.hub_id is None else hub.download(self.hub_id, None, self.revision), folder)

    def _checkpoint(self, *parts: str) -> "LavitCheckpoint":
        """Return the published folder, with the files of these parts downloaded."""
        from videotok.lavit.checkpoint import LavitCheckpoint

        if self.hub_id is None:
            return LavitCheckpoint(self.folder)
        patterns = [pattern for part in parts for pattern in _patterns(part)]
        return LavitCheckpoint(hub.download(self.hub_id, patterns, self.revision))


def _patterns(part: str) -> list[str]:
    from videotok.lavit.checkpoint import HF_FOLDERS, UNET_FOLDER
    from videotok.lavit.weight_map import PARTS as PUBLISHED_PARTS

    if part in HF_FOLDERS:
        return [f"{HF_FOLDERS[part]}/*"]
    return [*PUBLISHED_PARTS[part].files, *([f"{UNET_FOLDER}/config.json"] if part == "detokenizer" else [])]
