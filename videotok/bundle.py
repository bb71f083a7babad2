"""Which class reads a folder of keyframe weights: ours, diffusers' VQModel, or one that another package registered.

Where weights come from: a folder with one model a subfolder, and what each model's hash is.

PublishedBundle: the published layout where a bundle is expected, as files or from the hub, nothing converted
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from videotok.errors import ModelError, TokensError
from videotok.tokens import TOKENIZERS, ModelIdentity, VideoTokens

if TYPE_CHECKING:  # a bundle is found, and refused, before torch is loaded
    import torch
    from diffusers.models.modeling_utils import ModelMixin

    from unet3d import LatentDetokenizer, VideoDetokenizer
    from videotok.keyframes.protocol import KeyframeTokenizerProtocol
    from videotok.lavit.checkpoint import PublishedFolder

ENTRY_POINTS = "videotok.keyframes"
"""Group of the entry points of other packages."""

Loader = Callable[[Path, "torch.dtype"], "KeyframeTokenizerProtocol"]
"""(folder, type its weights are cast to) -> a tokenizer, ready to run. May raise OSError, ValueError, RuntimeError."""


def load_keyframes(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    """The tokenizer in a folder: config.json and weights, loaded by what `_class_name` in config.json says.

    `KeyframeTokenizer` and `VQModel` are known. Any other name is looked up among the entry points of the group
    `videotok.keyframes`; in the pyproject.toml of the package that brings it::

        [project.entry-points."videotok.keyframes"]
        MyTokenizer = "my_package:load"  # load(folder: Path, dtype: torch.dtype) -> KeyframeTokenizerProtocol

    Raises:
        ModelError: nobody knows the class, or what its entry point gives is no tokenizer.
        OSError, ValueError, RuntimeError: the folder's files are missing or damaged.
    """
    name = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name"))
    if name in OWN:
        return OWN[name](folder, dtype)
    registered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in registered:
        known = ", ".join(sorted({*OWN, *registered}))
        raise ModelError(
            f"{folder / 'config.json'} names the class {name}; keyframe tokenizers here are {known}; "
            f"others come with a package that registers one under {ENTRY_POINTS}"
        )
    from videotok.keyframes.protocol import KeyframeTokenizerProtocol

    tokenizer = registered[name].load()(folder, dtype)
    if not isinstance(tokenizer, KeyframeTokenizerProtocol):
        lacking = [part for part in dir(KeyframeTokenizerProtocol) if part[0] != "_" and not hasattr(tokenizer, part)]
        raise ModelError(f"{name} of {registered[name].value} is no keyframe tokenizer: it has no {', '.join(lacking)}")
    return tokenizer


def _own(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.keyframes.tokenizer import KeyframeTokenizer

    model = KeyframeTokenizer.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    return model.eval().requires_grad_(False)


def _vqmodel(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.keyframes.vqmodel import VQModelTokenizer

    return VQModelTokenizer.from_pretrained(folder, dtype)


def _lavit(folder: Path, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
    from videotok.lavit.loading import load_lavit

    return load_lavit(folder, dtype)


OWN: dict[str, Loader] = {"KeyframeTokenizer": _own, "LavitKeyframes": _lavit, "VQModel": _vqmodel}


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
"""Files and folders of Video-LaVIT's weights as published; one of them tells that layout."""
ORIGIN = "source.json"
"""Beside weights that were converted: the hash of what they were made of. Their tokens are the original's."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Model = TypeVar("Model", bound="ModelMixin")


@dataclass(frozen=True)
class Bundle:
    """A folder with the subfolders `keyframes`, `motion` and `detokenizer`: config.json and safetensors each."""

    name: str
    """`shipped`, the folder's name, or the hub id: what the user would call it."""
    folder: Path
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Parts that are not in `folder`, and the folder of each."""

    @classmethod
    def find(cls, model: str | Path | None, keyframes: str | Path | None = None) -> "Bundle":
        """The bundle a user means.

        Args:
            model: None: the one that ships. A folder. Or a hub id, `owner/name`: only then is anything downloaded.
            keyframes: a folder with config.json and weights of a keyframe tokenizer, in place of the bundle's own.

        Raises:
            ModelError: no such folder, nothing under that id, or no network.
        """
        bundle = cls._find(model)
        if keyframes is None:
            return bundle
        if not (Path(keyframes) / "config.json").is_file():
            raise ModelError(f"no keyframe tokenizer in {keyframes}: {Path(keyframes) / 'config.json'} is missing")
        return replace(bundle, elsewhere={"keyframes": Path(keyframes)})

    @classmethod
    def _find(cls, model: str | Path | None) -> "Bundle":
        if model is None:
            return cls("shipped", SHIPPED)
        folder = Path(model)
        if folder.is_dir():
            name = folder.resolve().name
            if any((folder / part).is_dir() for part in PARTS):
                return cls(name, folder)
            if any((folder / place).exists() for place in PUBLISHED):
                return _published(name, folder)
            raise ModelError(f"{folder} is not a bundle: it has no subfolder {', '.join(PARTS)}")
        hub_id = str(model)
        if not HUB_ID.fullmatch(hub_id):
            raise ModelError(f"no model {model}: neither a folder nor a hub id such as owner/name")
        if any(file.split("/")[0] in PUBLISHED for file in hub_files(hub_id)):
            return _published(hub_id, Path(hub_id), hub_id)
        return cls(hub_id, downloaded(hub_id, ["*/*.json", "*/*.safetensors"]))

    def load(self, part: str, model_class: type[Model], dtype: "torch.dtype") -> Model:
        """One model of the bundle, ready to run, its weights cast to `dtype`.

        Raises:
            ModelError: it is not there, damaged, or of another class.
        """
        with self._loading(part) as folder:
            model = model_class.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
            return model.eval().requires_grad_(False)

    def load_keyframes(self, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
        """The keyframe tokenizer, of whatever class config.json names; see `videotok.bundle`.

        Raises:
            ModelError: it is not there, damaged, or of a class that nobody knows.
        """
        with self._loading("keyframes") as folder:
            return load_keyframes(folder, dtype)

    def load_detokenizer(self, dtype: "torch.dtype") -> "VideoDetokenizer | LatentDetokenizer":
        """The video detokenizer; one that works on latents with its autoencoder and scheduler.

        Raises:
            ModelError: it is not there, damaged, or of another class.
        """
        from unet3d import VideoDetokenizer

        model = self.load("detokenizer", VideoDetokenizer, dtype)
        if not model.config["latent_channels"]:
            return model
        from videotok.lavit.loading import latent_detokenizer

        with self._loading("detokenizer") as folder:
            return latent_detokenizer(model, folder / "vae", folder / "scheduler", dtype)

    @contextmanager
    def _loading(self, part: str) -> Iterator[Path]:
        """The folder of a part, while it is loaded."""
        folder = self._part(part)
        try:
            yield folder
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"cannot load {part} of model {self.name}: {reason}") from error

    def identity(self, part: str) -> ModelIdentity:
        """Name and hash of one model.

        Raises:
            ModelError: it is not there.
        """
        folder = self._part(part)
        return ModelIdentity(folder.resolve().name if part in self.elsewhere else self.name, _sha256(folder))

    def check(self, tokens: VideoTokens) -> None:
        """Raises TokensError unless these tokens were made with the weights of this bundle."""
        for part in TOKENIZERS:
            made, here = tokens.models[part], self.identity(part)
            if made.sha256 != here.sha256:
                raise TokensError(
                    f"tokens of {tokens.source.file} were made with {part} weights {made.sha256[:12]} ({made.name}), "
                    f"the model at hand has {here.sha256[:12]} ({here.name}); "
                    "name the right one with --model, or encode the video again"
                )

    def _part(self, part: str) -> Path:
        folder = self.elsewhere.get(part, self.folder / part)
        if not (folder / "config.json").is_file():
            raise ModelError(f"model {self.name} has no {part}: {folder / 'config.json'} is missing")
        return folder


def _sha256(folder: Path) -> str:
    """Of the safetensors files of a folder, in order of name; of what they were converted from, where they were."""
    if (folder / ORIGIN).is_file():
        return json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["sha256"]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"no weights in {folder}: there is no .safetensors file")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _published(name: str, folder: Path, hub_id: str | None = None) -> Bundle:
    return PublishedBundle(name, folder, hub_id=hub_id)


def found_folder(model: str) -> Path:
    """A folder, or all of what a hub id has, downloaded.

    Raises:
        ModelError: neither.
    """
    if Path(model).is_dir():
        return Path(model)
    if not HUB_ID.fullmatch(model):
        raise ModelError(f"no model {model}: neither a folder nor a hub id such as owner/name")
    return downloaded(model, None)


def hub_files(hub_id: str) -> list[str]:
    """Names of the files under a hub id; of those downloaded before where there is no network."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _from_hub(hub_id):
        try:
            return HfApi().list_repo_files(hub_id)
        except OSError:
            try:
                folder = Path(snapshot_download(hub_id, local_files_only=True))
            except LocalEntryNotFoundError:
                folder = None
            if folder is None:
                raise
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def downloaded(hub_id: str, patterns: list[str] | None) -> Path:
    """The folder with the files of a hub id that match one of the patterns, all where None.

    Raises:
        ModelError: no such id, or no network and not downloaded before.
    """
    from huggingface_hub import snapshot_download

    with _from_hub(hub_id):
        return Path(snapshot_download(hub_id, allow_patterns=patterns))


@contextmanager
def _from_hub(hub_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot download {hub_id}: {reason}; check the name and the network") from error


DRAWING = ("keyframes/condition", "keyframes/unet", "keyframes/vae", "keyframes/scheduler")
"""What decoding a keyframe's words needs beside the tokenizer."""


@dataclass(frozen=True)
class PublishedBundle(Bundle):
    """A download, whole or in part. What is not there is missed when it is needed, and not before."""

    hub_id: str | None = None
    """Where parts are downloaded from when they are needed; None: the folder has what it has."""

    def load(self, part: str, model_class: type, dtype: "torch.dtype") -> Any:
        """One of the parts that are ours; see `Bundle.load`."""
        from videotok.lavit import weight_map

        folder = self._with(part)
        read = folder.read(part)
        config = folder.config(part, read)
        where = ", ".join(path.name for path in folder.files(part))
        entry = weight_map.PARTS[part]
        weight_map.check(entry, weight_map.skeleton(entry, config), read.shapes, where, extra=True)
        model = weight_map.build(entry, read, config, dtype)
        if not isinstance(model, model_class):
            raise ModelError(f"{part} of model {self.name} is a {type(model).__name__}, no {model_class.__name__}")
        return model

    def load_keyframes(self, dtype: "torch.dtype") -> Any:
        """The keyframe tokenizer; able to draw where the files for it are there."""
        import torch

        from videotok.lavit.checkpoint import PLAIN
        from videotok.lavit.loading import single, with_painter
        from videotok.lavit.modeling_keyframes import LavitKeyframes
        from videotok.lavit.weight_map import PARTS as PUBLISHED_PARTS

        if "keyframes" in self.elsewhere:
            return super().load_keyframes(dtype)
        model: LavitKeyframes = self.load("keyframes", LavitKeyframes, single(dtype))
        if dtype == torch.float64:  # it is to encode, and will not draw
            return model
        folder = self._with(*DRAWING)
        condition = None
        if not folder.missing("keyframes/condition"):
            condition = self.load("keyframes/condition", PUBLISHED_PARTS["keyframes/condition"].model, dtype)
        unet, vae, scheduler = (folder.folder / PLAIN[part] for part in DRAWING[1:])
        return with_painter(model, condition, unet, vae, scheduler, dtype)

    def load_detokenizer(self, dtype: "torch.dtype") -> "LatentDetokenizer":
        """The video detokenizer with its autoencoder and scheduler."""
        from unet3d import VideoDetokenizer
        from videotok.lavit.checkpoint import PLAIN
        from videotok.lavit.loading import latent_detokenizer

        folder = self._with("detokenizer", "detokenizer/vae", "detokenizer/scheduler").folder
        model = self.load("detokenizer", VideoDetokenizer, dtype)
        places = (folder / PLAIN["detokenizer/vae"], folder / PLAIN["detokenizer/scheduler"])
        return latent_detokenizer(model, *places, dtype)

    def identity(self, part: str) -> ModelIdentity:
        """The hash of the published files: the same as after conversion."""
        if part in self.elsewhere:
            return super().identity(part)
        folder = self._with(part)
        if missing := folder.missing(part):
            raise ModelError(f"model {self.name} has no {part}: {', '.join(missing)} missing; download it too")
        return ModelIdentity(self.name, folder.sha256(part))

    def _with(self, *parts: str) -> "PublishedFolder":
        """The folder, after the files of these parts were fetched."""
        from videotok.lavit.checkpoint import PublishedFolder

        if self.hub_id is None:
            return PublishedFolder(self.folder)
        patterns = [pattern for part in parts for pattern in _patterns(part)]
        return PublishedFolder(downloaded(self.hub_id, patterns))


def _patterns(part: str) -> list[str]:
    from videotok.lavit.checkpoint import PLAIN, UNET
    from videotok.lavit.weight_map import PARTS as PUBLISHED_PARTS

    if part in PLAIN:
        return [f"{PLAIN[part]}/*"]
    return [*PUBLISHED_PARTS[part].files, *([f"{UNET}/config.json"] if part == "detokenizer" else [])]
