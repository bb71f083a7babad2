"""Where weights come from: a folder with one model a subfolder, and what each model's hash is."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from videotok.errors import ModelError, TokensError
from videotok.tokens import TOKENIZERS, ModelIdentity, VideoTokens

if TYPE_CHECKING:  # a bundle is found, and refused, before torch is loaded
    import torch
    from diffusers.models.modeling_utils import ModelMixin

    from videotok.keyframes import KeyframeTokenizerProtocol

SHIPPED = Path(__file__).parent / "weights"
PARTS = ("keyframes", "motion", "detokenizer")
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
        return cls(bundle.name, bundle.folder, {"keyframes": Path(keyframes)})

    @classmethod
    def _find(cls, model: str | Path | None) -> "Bundle":
        if model is None:
            return cls("shipped", SHIPPED)
        folder = Path(model)
        if folder.is_dir():
            if not any((folder / part).is_dir() for part in PARTS):
                raise ModelError(f"{folder} is not a bundle: it has no subfolder {', '.join(PARTS)}")
            return cls(folder.resolve().name, folder)
        if not HUB_ID.fullmatch(str(model)):
            raise ModelError(f"no model {model}: neither a folder nor a hub id such as owner/name")
        return cls(str(model), _download(str(model)))

    def load(self, part: str, model_class: type[Model], dtype: "torch.dtype") -> Model:
        """One model of the bundle, ready to run, its weights cast to `dtype`.

        Raises:
            ModelError: it is not there, damaged, or of another class.
        """
        with self._loading(part) as folder:
            model = model_class.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
            return model.eval().requires_grad_(False)

    def load_keyframes(self, dtype: "torch.dtype") -> "KeyframeTokenizerProtocol":
        """The keyframe tokenizer, of whatever class config.json names; see `videotok.keyframes.registry`.

        Raises:
            ModelError: it is not there, damaged, or of a class that nobody knows.
        """
        from videotok.keyframes.registry import load_keyframes

        with self._loading("keyframes") as folder:
            return load_keyframes(folder, dtype)

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
    """Of the safetensors files of a folder, in order of name."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"no weights in {folder}: there is no .safetensors file")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*/*.json", "*/*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot download {hub_id}: {reason}; check the name and the network") from error
