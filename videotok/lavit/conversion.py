"""A published folder to a bundle: safetensors and config.json, part by part, in memory for one shard"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from codec import atomic_path
from videotok.bundle import ORIGIN
from videotok.errors import ModelError
from videotok.lavit.checkpoint import (
    LANGUAGE,
    PLAIN,
    PublishedFolder,
    absent,
    embedded_tokenizers,
    opened,
    safe_name,
    weight_files,
    without_tokenizers,
)
from videotok.lavit.weight_map import PARTS, Config, check, config_of, skeleton, tensors

SHARD = 2**28
"""Numbers in one file at most, but for a tensor that is larger: 1 GB in single precision."""


@dataclass(frozen=True)
class Converted:
    """What became of a part."""

    part: str
    numbers: int
    """Of its weights; 0 where it is missing, or was copied."""
    missing: tuple[str, ...] = ()


def convert(
    source: Path,
    target: Path,
    *,
    half: bool = False,
    extra: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[Converted]:
    """Writes all of `source` that is there to `target`.

    Args:
        source: folder of the published layout, whole or in part.
        target: folder of the bundle; made where it is not there.
        half: floating numbers become float16.
        extra: let keys pass that nobody knows; they are left out.
        tell: told the name of each part before it is begun.

    Raises:
        ModelError: nothing published is there, a file is damaged, or a key is missing, misshapen or not known.
    """
    folder = PublishedFolder(source)
    if not folder.is_one:
        raise ModelError(f"{source} has none of the published files, such as {next(iter(PARTS['motion'].files))}")
    done = []
    for name in PARTS:
        if missing := folder.missing(name):
            done.append(Converted(name, 0, tuple(missing)))
            continue
        if tell:
            tell(name)
        done.append(Converted(name, _convert_part(folder, name, target / name, half, extra)))
    for name, place in PLAIN.items():
        if missing := absent(source, place):
            done.append(Converted(name, 0, tuple(missing)))
            continue
        if tell:
            tell(name)
        _convert_plain(source / place, target / name, half)
        done.append(Converted(name, 0))
        for own, read in embedded_tokenizers(source / place).items() if name in LANGUAGE else ():
            config, into = config_of(own, read), target / name / own
            numbers = write_part(own, config, read, read.shapes, into, where=place, half=half, extra=extra)
            done.append(Converted(f"{name}/{own}", numbers))
    return done


def _convert_part(folder: PublishedFolder, name: str, target: Path, half: bool, extra: bool) -> int:
    read, files = folder.read(name), [path.name for path in folder.files(name)]
    origin = {"sha256": folder.sha256(name), "files": files, "half": half}
    return write_part(
        name,
        folder.config(name, read),
        read,
        read.shapes,
        target,
        where=", ".join(files),
        half=half,
        extra=extra,
        origin=origin,
    )


def write_part(
    name: str,
    config: Config,
    read: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    target: Path,
    *,
    where: str,
    half: bool,
    extra: bool,
    origin: Mapping[str, object] | None = None,
) -> int:
    """Writes one of our models to a folder: safetensors, in shards where it is large, and config.json.

    Args:
        name: of PARTS.
        config: of its class.
        read: published tensors by name.
        shapes: of all of them, known before any is read.
        target: the folder.
        where: they come from, for messages.
        half: floating numbers become float16.
        extra: let keys pass that nobody knows.
        origin: what `source.json` says of the files.

    Returns:
        How many numbers the weights are.

    Raises:
        ModelError: a key is missing, misshapen or not known.
    """
    part = PARTS[name]
    model = skeleton(part, config)
    check(part, model, shapes, where, extra=extra)
    target.mkdir(parents=True, exist_ok=True)
    _write_shards(target, "diffusion_pytorch_model", _groups(model), tensors(part, model, read), half)
    if origin is not None:
        _write_json(target / ORIGIN, origin)
    # last: a part without it is not there
    _write_json(target / "config.json", json.loads(model.to_json_string()))
    return sum(value.numel() for value in model.state_dict().values())


def _groups(model: ModelMixin) -> list[list[str]]:
    """Names of tensors, as many together as go into one shard."""
    groups, size = [[]], 0
    for name, value in model.state_dict().items():
        if groups[-1] and size + value.numel() > SHARD:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += value.numel()
    return groups


def _write_shards(
    target: Path, stem: str, groups: list[list[str]], values: Iterable[tuple[str, Tensor]], half: bool
) -> None:
    values, total, places = iter(values), 0, {}
    for number, names in enumerate(groups, 1):
        file = f"{stem}-{number:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else f"{stem}.safetensors"
        shard = {name: _halved(value, half) for name, value in _some(values, len(names))}
        with atomic_path(target / file) as path:
            save_file(shard, path, metadata={"format": "pt"})
        total += sum(value.nbytes for value in shard.values())
        places |= dict.fromkeys(shard, file)
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(target / f"{stem}.safetensors.index.json", index)


def _some(values: Iterator[tuple[str, Tensor]], count: int) -> Iterator[tuple[str, Tensor]]:
    for _ in range(count):
        yield next(values)


def _halved(value: Tensor, half: bool) -> Tensor:
    return value.half() if half and value.is_floating_point() else value


def _convert_plain(source: Path, target: Path, half: bool) -> None:
    """A folder that diffusers or transformers wrote: pickled weights become safetensors, the rest is copied."""
    target.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    files = weight_files(source)
    for path in files:
        name = safe_name(path.name)
        if not (state := without_tokenizers(opened(path))):
            continue
        with atomic_path(target / name) as temporary:
            shard = {key: _halved(value, half).clone().contiguous() for key, value in state.items()}
            save_file(shard, temporary, metadata={"format": "pt"})
        places |= dict.fromkeys(state, name)
    for path in sorted(source.iterdir()):
        if path.name.endswith(".index.json"):
            if files[0].suffix in path.name:
                _write_json(target / safe_name(path.name), {"metadata": {}, "weight_map": places})
        elif path.is_file() and path.suffix not in (".bin", ".safetensors"):
            with atomic_path(target / path.name) as temporary:
                shutil.copyfile(path, temporary)


def _write_json(path: Path, values: object) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
