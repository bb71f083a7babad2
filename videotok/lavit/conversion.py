"""Conversion of the published Video-LaVIT weights to a bundle: safetensors and config.json for each part.

One shard of one part is in memory at a time.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from codec import atomic_path
from videotok.errors import ModelError
from videotok.io_utils import ORIGIN, write_json
from videotok.lavit.checkpoint import (
    HF_FOLDERS,
    LANGUAGE_MODELS,
    CheckpointTensors,
    LavitCheckpoint,
    load_embedded_tokenizers,
    load_tensors,
    missing_files,
    safetensors_name,
    weight_files,
    without_embedded_tokenizers,
)
from videotok.lavit.weight_map import PARTS, Config, check_keys, converted_tensors, meta_model, part_config

SHARD_BYTES = 2**30
"""Size of a weight file in single precision at most, unless one tensor is larger."""


@dataclass(frozen=True)
class ConvertedPart:
    """The result of one part."""

    part: str
    num_parameters: int
    """0 where the part is missing, or is an hf folder."""
    missing: tuple[str, ...] = ()
    """Files that the part lacks; then it is left out."""


def convert(
    source: Path,
    target: Path,
    *,
    half: bool = False,
    allow_extra: bool = False,
    on_part: Callable[[str], None] = lambda part: None,
) -> list[ConvertedPart]:
    """Convert all parts of a published folder that are there; return the result of every part.

    Args:
        source: folder of the published layout, complete or in part.
        target: folder of the bundle; made if it does not exist.
        half: write floating weights as float16.
        allow_extra: accept unknown keys; they are left out.
        on_part: called with the name of each part before it is converted.

    Raises:
        ModelError: `source` has no published file, a file is damaged, or a key is missing, has another shape or is
            unknown.
    """
    checkpoint = LavitCheckpoint(source)
    if not checkpoint.exists:
        raise ModelError(f"{source} has none of the published files, such as {next(iter(PARTS['motion'].files))}")
    results = []
    for part in PARTS:
        if missing := checkpoint.missing(part):
            results.append(ConvertedPart(part, 0, tuple(missing)))
            continue
        on_part(part)
        results.append(ConvertedPart(part, _convert_part(checkpoint, part, target / part, half, allow_extra)))
    for part, folder in HF_FOLDERS.items():
        if missing := missing_files(source, folder):
            results.append(ConvertedPart(part, 0, tuple(missing)))
            continue
        on_part(part)
        _convert_hf_folder(source / folder, target / part, half)
        results.append(ConvertedPart(part, 0))
        if part in LANGUAGE_MODELS:
            results += _convert_embedded_tokenizers(source / folder, target / part, half, allow_extra)
    return results


def _convert_part(checkpoint: LavitCheckpoint, part: str, target: Path, half: bool, allow_extra: bool) -> int:
    tensors, files = checkpoint.load(part), [path.name for path in checkpoint.files(part)]
    return write_part(
        part,
        checkpoint.config(part, tensors),
        tensors,
        tensors.shapes,
        target,
        where=", ".join(files),
        half=half,
        allow_extra=allow_extra,
        origin={"sha256": checkpoint.sha256(part), "files": files, "half": half},
    )


def _convert_embedded_tokenizers(source: Path, target: Path, half: bool, allow_extra: bool) -> Iterator[ConvertedPart]:
    """Write the tokenizers that are embedded in a language model's weights to subfolders of the language model."""
    embedded: dict[str, CheckpointTensors] = load_embedded_tokenizers(source)
    for part, tensors in embedded.items():
        count = write_part(
            part,
            part_config(part, tensors),
            tensors,
            tensors.shapes,
            target / part,
            where=source.name,
            half=half,
            allow_extra=allow_extra,
        )
        yield ConvertedPart(f"{target.name}/{part}", count)


def write_part(
    name: str,
    config: Config,
    checkpoint: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    target: Path,
    *,
    where: str,
    half: bool,
    allow_extra: bool,
    origin: Mapping[str, object] | None = None,
) -> int:
    """Write one of our models to a folder, as safetensors (in shards if it is large) and config.json.

    Args:
        name: of `PARTS`.
        config: of its model.
        checkpoint: key -> tensor.
        shapes: key -> shape, of all of them.
        target: the folder.
        where: the tensors come from, for messages.
        half: write floating weights as float16.
        allow_extra: accept unknown keys.
        origin: content of the file `ORIGIN`, which records what the weights were made of.

    Returns:
        The number of parameters.

    Raises:
        ModelError: a key is missing, has another shape or is unknown.
    """
    part = PARTS[name]
    model = meta_model(part, config)
    check_keys(part, model, shapes, where, allow_extra=allow_extra)
    target.mkdir(parents=True, exist_ok=True)
    _write_shards(target, model.state_dict(), converted_tensors(part, model, checkpoint), half)
    if origin is not None:
        write_json(target / ORIGIN, origin)
    # last, because a part without config.json counts as missing
    write_json(target / "config.json", json.loads(model.to_json_string()))
    return sum(value.numel() for value in model.state_dict().values())


def _write_shards(
    target: Path, meta_state: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], half: bool
) -> None:
    """Write tensors in the order of `meta_state`, whose sizes decide the shards."""
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    split = split_torch_state_dict_into_shards(dict(meta_state), filename_pattern=pattern, max_shard_size=SHARD_BYTES)
    tensors, total_size = iter(tensors), 0
    for file, names in split.filename_to_tensors.items():
        shard = {name: _halve(value, half) for name, value in islice(tensors, len(names))}
        with atomic_path(target / file) as temporary:
            save_file(shard, temporary, metadata={"format": "pt"})
        total_size += sum(value.nbytes for value in shard.values())
    if split.is_sharded:
        index = {"metadata": {"total_size": total_size}, "weight_map": split.tensor_to_filename}
        write_json(target / (pattern.format(suffix="") + ".index.json"), index)


def _convert_hf_folder(source: Path, target: Path, half: bool) -> None:
    """Convert a folder that diffusers or transformers wrote: weights become safetensors, other files are copied."""
    target.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    files = weight_files(source)
    for path in files:
        name = safetensors_name(path.name)
        if not (state := without_embedded_tokenizers(load_tensors(path))):
            continue
        with atomic_path(target / name) as temporary:
            shard = {key: _halve(value, half).clone().contiguous() for key, value in state.items()}
            save_file(shard, temporary, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(state, name)
    for path in sorted(source.iterdir()):
        if path.name.endswith(".index.json"):
            if files[0].suffix in path.name:
                write_json(target / safetensors_name(path.name), {"metadata": {}, "weight_map": weight_map})
        elif path.is_file() and path.suffix not in (".bin", ".safetensors"):
            with atomic_path(target / path.name) as temporary:
                shutil.copyfile(path, temporary)


def _halve(value: Tensor, half: bool) -> Tensor:
    return value.half() if half and value.is_floating_point() else value
