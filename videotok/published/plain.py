"""Folders that diffusers or transformers wrote: which of their files are weights, and which are missing"""

import json
from pathlib import Path

from videotok.errors import ModelError

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
