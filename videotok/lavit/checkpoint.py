"""Folders that diffusers or transformers wrote: which of their files are weights, and which are missing

A folder as Video-LaVIT was published, and what is in it

Tokenizers that a language model was embedded_tokenizers with: they lie among its own weights
"""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videotok.errors import ModelError
from videotok.lavit.weight_map import PARTS, Config, config_of

BESIDE = ("training_args.bin", "optimizer.bin", "scheduler.bin", "visual_weight.bin")
"""Files that are no weights of the model."""


def weight_files(folder: Path) -> list[Path]:
    """Safetensors where there are any, else pickled weights; sorted by name."""
    safe = sorted(folder.glob("*.safetensors"))
    return safe or [path for path in sorted(folder.glob("*.bin")) if path.name not in BESIDE]


def absent(root: Path, place: str) -> list[str]:
    """What the folder `place` below `root` lacks, by its path below `root`; the folder itself where it is not there.

    Raises:
        ModelError: the index of its weights is damaged.
    """
    folder = root / place
    if not folder.is_dir():
        return [f"{place}/"]
    is_scheduler = place.endswith("scheduler")
    config = "scheduler_config.json" if is_scheduler else "config.json"
    missing = [] if (folder / config).is_file() else [config]
    if not is_scheduler:
        files = weight_files(folder)
        indexes = [path for path in sorted(folder.glob("*.index.json")) if not files or files[0].suffix in path.name]
        indexed = {name for path in indexes for name in _indexed(path)}
        missing += sorted(name for name in indexed if not (folder / name).is_file())
        if not files and not indexed:
            missing.append("*.safetensors or *.bin")
    return [f"{place}/{name}" for name in missing]


def _indexed(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"cannot read {path}: it lists no weight files; is the download complete?") from error


def safe_name(name: str) -> str:
    """What a pickled weight file, or the index of several, is called as safetensors."""
    for pickled, safe in (("pytorch_model", "model"), (".bin", ".safetensors")):
        name = name.replace(pickled, safe) if not name.startswith("diffusion_") or pickled == ".bin" else name
    return name


PLAIN = {
    "detokenizer/vae": "video_detokenizer/vae",
    "detokenizer/scheduler": "video_detokenizer/scheduler",
    "keyframes/unet": "image_detokenizer/unet",
    "keyframes/vae": "image_detokenizer/vae",
    "keyframes/scheduler": "image_detokenizer/scheduler",
    "language_model": "language_model",
    "language_model_sft": "language_model_sft",
}
"""Subfolder of a bundle -> published folder of a model that diffusers or transformers reads as it is."""
LANGUAGE = ("language_model", "language_model_sft")
UNET = "video_detokenizer/unet"


@dataclass(frozen=True)
class PublishedFolder:
    """Files of a download, of all of it or of a part."""

    folder: Path

    @property
    def is_one(self) -> bool:
        """Whether anything published is there."""
        files = [file for part in PARTS.values() for file in part.files]
        places = [*files, *PLAIN.values(), UNET]
        return any((self.folder / place).exists() for place in places)

    def files(self, part: str) -> dict[Path, str]:
        """Where a part is published, and what stands before its keys; whether the files are there or not."""
        found = {self.folder / file: prefix for file, prefix in PARTS[part].files.items()}
        if part == "detokenizer" and not all(path.exists() for path in found):
            for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"):
                if (self.folder / UNET / name).exists():
                    return {self.folder / UNET / name: ""}
        return found

    def missing(self, part: str) -> list[str]:
        """Files of a part that are not there."""
        return [str(path.relative_to(self.folder)) for path in self.files(part) if not path.is_file()]

    def config(self, part: str, read: Iterable[str]) -> Config:
        """Of the part's class, given the names of its tensors.

        Shapes do not tell the video U-Net's heads: its config.json does, if it is there.
        """
        known = config_of(part, read)
        path = self.folder / UNET / "config.json"
        if part != "detokenizer" or not path.is_file():
            return known
        from diffusers.configuration_utils import ConfigMixin

        told = ConfigMixin._dict_from_json_file(path)
        heads, levels = told.get("num_attention_heads", (5, 10, 10, 20)), len(known["block_out_channels"])
        return {
            **known,
            "attention_heads": tuple(heads) if isinstance(heads, list | tuple) else (heads,) * levels,
        }

    def read(self, part: str) -> "Opened":
        """The published tensors of a part, read when they are asked for.

        Raises:
            ModelError: a file is missing or damaged.
        """
        if missing := self.missing(part):
            raise ModelError(f"{self.folder} has no {part}: {', '.join(missing)} missing; download it too")
        opened = Opened()
        for path, prefix in self.files(part).items():
            opened.add(path, prefix)
        if part == "detokenizer" and not any(name.startswith("unet.") for name in opened):
            opened.rename(lambda name: name if name.startswith("motion_encoder.") else f"unet.{name}")
        return opened

    def sha256(self, part: str) -> str:
        """Of a part's files, one after another."""
        digest = hashlib.sha256()
        for path in self.files(part):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


class Opened(Mapping[str, Tensor]):
    """Tensors of weight files by name; the files are mapped into memory, not loaded."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def add(self, path: Path, prefix: str = "") -> None:
        """One more file.

        Raises:
            ModelError: it is damaged, or holds other things than tensors by name.
        """
        self._tensors |= {prefix + name: value for name, value in opened(path).items()}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors that were opened elsewhere."""
        self._tensors |= tensors

    def rename(self, new: Callable[[str], str]) -> None:
        """Gives every tensor another name."""
        self._tensors = {new(name): value for name, value in self._tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self._tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def opened(path: Path) -> dict[str, Tensor]:
    """Tensors of a .bin (weights only: nothing in it is run) or .safetensors file, mapped into memory.

    Raises:
        ModelError: it is damaged, or holds other things than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = _unpickled(path)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot read {path}: {reason}; is the download complete?") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} does not hold tensors by name; is it a weight file?")
    return state


def _unpickled(path: Path) -> object:
    # files of before torch 1.6 cannot be mapped
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


TOKENIZERS = {"model.visual_tokenizer.": "keyframes", "model.motion_tokenizer.": "motion"}
"""What stands before their keys -> our part."""


def embedded_tokenizers(folder: Path) -> dict[str, Opened]:
    """Part -> its tensors by the names that `videotok.lavit.weight_map` knows; empty where the folder has none.

    The understanding model was embedded_tokenizers together with a merger and a projection of its own: its features are not those
    of the visual tokenizer that is published beside it.

    Raises:
        ModelError: a weight file is damaged.
    """
    found: dict[str, Opened] = {}
    for path in weight_files(folder):
        tensors = opened(path)
        for prefix, part in TOKENIZERS.items():
            mine = {
                _known(name.removeprefix(prefix), part): tensors[name] for name in tensors if name.startswith(prefix)
            }
            if mine:
                found.setdefault(part, Opened()).take(mine)
    return found


def without_tokenizers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's own weights."""
    return {name: value for name, value in state.items() if not name.startswith(tuple(TOKENIZERS))}


def _known(name: str, part: str) -> str:
    # elsewhere the transformer is a file of its own
    return f"vit.{name.removeprefix('encoder.')}" if part == "keyframes" and name.startswith("encoder.") else name
