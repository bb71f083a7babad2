"""LavitCheckpoint: the published files of Video-LaVIT, and the tensors in them.

motion_tokenizer.bin, visual_tokenizer/, video_3d_unet.bin    parts of our own classes (videotok.lavit.weight_map)
video_detokenizer/, image_detokenizer/                        hf folders: as diffusers writes them
language_model/, language_model_sft/                          hf folders, as transformers writes them; the second
                                                              one with embedded tokenizers among its weights
"""

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videotok.errors import ModelError, first_line
from videotok.io_utils import read_json, sha256_of_files
from videotok.lavit.weight_map import PARTS, Config, part_config

HF_FOLDERS = {
    "detokenizer/vae": "video_detokenizer/vae",
    "detokenizer/scheduler": "video_detokenizer/scheduler",
    "keyframes/unet": "image_detokenizer/unet",
    "keyframes/vae": "image_detokenizer/vae",
    "keyframes/scheduler": "image_detokenizer/scheduler",
    "language_model": "language_model",
    "language_model_sft": "language_model_sft",
}
"""Subfolder of a bundle -> published folder of a model that diffusers or transformers loads as it is."""
LANGUAGE_MODELS = ("language_model", "language_model_sft")
UNET_FOLDER = "video_detokenizer/unet"
EMBEDDED_PREFIXES = {"model.visual_tokenizer.": "keyframes", "model.motion_tokenizer.": "motion"}
"""Prefix of a language model's keys -> part of the tokenizer that is embedded there."""
NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "visual_weight.bin")
"""Files with the suffix of weights that are none."""


@dataclass(frozen=True)
class LavitCheckpoint:
    """The folder of a download, complete or in part."""

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether the folder has any of the published files."""
        files = [file for part in PARTS.values() for file in part.files]
        return any((self.folder / name).exists() for name in [*files, *HF_FOLDERS.values(), UNET_FOLDER])

    def files(self, part: str) -> dict[Path, str]:
        """Return the files of a part, whether they exist or not, and the prefix of their keys in the weight map."""
        found = {self.folder / file: prefix for file, prefix in PARTS[part].files.items()}
        if part == "detokenizer" and not all(path.exists() for path in found):
            for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"):
                if (self.folder / UNET_FOLDER / name).exists():
                    return {self.folder / UNET_FOLDER / name: ""}
        return found

    def missing(self, part: str) -> list[str]:
        """Return the files of a part that do not exist, relative to the folder."""
        return [str(path.relative_to(self.folder)) for path in self.files(part) if not path.is_file()]

    def config(self, part: str, keys: Iterable[str]) -> Config:
        """Return the config of a part's model, given the keys of its tensors.

        Shapes do not tell the number of attention heads of the video U-Net: its config.json does, where it exists.
        """
        config = part_config(part, keys)
        path = self.folder / UNET_FOLDER / "config.json"
        if part != "detokenizer" or not path.is_file():
            return config
        unet = read_json(path)
        heads, num_levels = unet.get("num_attention_heads", (5, 10, 10, 20)), len(config["block_out_channels"])
        heads = tuple(heads) if isinstance(heads, list | tuple) else (heads,) * num_levels
        return {**config, "attention_heads": heads}

    def load(self, part: str) -> "CheckpointTensors":
        """Return the tensors of a part, mapped into memory.

        Raises:
            ModelError: a file is missing or damaged.
        """
        if missing := self.missing(part):
            raise ModelError(f"{self.folder} has no {part}: {', '.join(missing)} missing; download it too")
        tensors = CheckpointTensors()
        for path, prefix in self.files(part).items():
            tensors.add_file(path, prefix)
        if part == "detokenizer" and not any(name.startswith("unet.") for name in tensors):
            tensors.rename(lambda name: name if name.startswith("motion_encoder.") else f"unet.{name}")
        return tensors

    def sha256(self, part: str) -> str:
        """Return the hash of a part's files, one after another."""
        return sha256_of_files(self.files(part))


class CheckpointTensors(Mapping[str, Tensor]):
    """Tensors of several weight files by name; the files are mapped into memory, not loaded."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def add_file(self, path: Path, prefix: str = "") -> None:
        """Add the tensors of a file, with a prefix before their names.

        Raises:
            ModelError: the file is damaged, or holds something else than tensors by name.
        """
        self._tensors |= {prefix + name: value for name, value in load_tensors(path).items()}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Add tensors that were loaded elsewhere."""
        self._tensors |= tensors

    def rename(self, new_name: Callable[[str], str]) -> None:
        """Rename every tensor."""
        self._tensors = {new_name(name): value for name, value in self._tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by name."""
        return {name: tuple(value.shape) for name, value in self._tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or pickled .bin file by name, mapped into memory.

    Pickled files are read as weights only: no code in them is run.

    Raises:
        ModelError: the file is damaged, or holds something else than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        # files from before torch 1.6 are no zip files and cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {first_line(error)}; is the download complete?") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} does not hold tensors by name; is it a weight file?")
    return state


# ---- hf folders


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of an hf folder, sorted by name: safetensors where there are any, else pickled ones."""
    safetensors = sorted(folder.glob("*.safetensors"))
    return safetensors or [path for path in sorted(folder.glob("*.bin")) if path.name not in NOT_WEIGHTS]


def missing_files(root: Path, name: str) -> list[str]:
    """Return what the hf folder `name` below `root` lacks, relative to `root`; `name/` where it does not exist.

    Raises:
        ModelError: the index of its weights is damaged.
    """
    folder = root / name
    if not folder.is_dir():
        return [f"{name}/"]
    if name.endswith("scheduler"):
        config = "scheduler_config.json"
        return [] if (folder / config).is_file() else [f"{name}/{config}"]
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    files = weight_files(folder)
    indexes = [path for path in sorted(folder.glob("*.index.json")) if not files or files[0].suffix in path.name]
    indexed = {file for path in indexes for file in _indexed_files(path)}
    missing += sorted(file for file in indexed if not (folder / file).is_file())
    if not files and not indexed:
        missing.append("*.safetensors or *.bin")
    return [f"{name}/{file}" for file in missing]


def _indexed_files(path: Path) -> list[str]:
    try:
        return list(read_json(path)["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"cannot read {path}: it lists no weight files; is the download complete?") from error


def safetensors_name(name: str) -> str:
    """Return the name of a pickled weight file, or of the index of several, after conversion to safetensors."""
    if not name.startswith("diffusion_"):
        name = name.replace("pytorch_model", "model")
    return name.replace(".bin", ".safetensors")


# ---- tokenizers among the weights of a language model


def load_embedded_tokenizers(folder: Path) -> dict[str, CheckpointTensors]:
    """Return the tensors of the tokenizers that are embedded in a language model's weights, by part; there may be none.

    The understanding model was trained together with a merger and a projection of its own: its features are not those
    of the visual tokenizer that is published beside it. Names are those that `videotok.lavit.weight_map` knows.

    Raises:
        ModelError: a weight file is damaged.
    """
    found: dict[str, CheckpointTensors] = {}
    for path in weight_files(folder):
        tensors = load_tensors(path)
        for prefix, part in EMBEDDED_PREFIXES.items():
            embedded = {
                _unembedded_name(name.removeprefix(prefix), part): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            if embedded:
                found.setdefault(part, CheckpointTensors()).add(embedded)
    return found


def without_embedded_tokenizers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the language model's own tensors."""
    return {name: value for name, value in state.items() if not name.startswith(tuple(EMBEDDED_PREFIXES))}


def _unembedded_name(name: str, part: str) -> str:
    # outside a language model the transformer is a file of its own, which the weight map knows as `vit.*`
    return f"vit.{name.removeprefix('encoder.')}" if part == "keyframes" and name.startswith("encoder.") else name
