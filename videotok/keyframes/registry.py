"""Which class reads a folder of keyframe weights: ours, diffusers' VQModel, or one that another package registered."""

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from videotok.errors import ModelError

if TYPE_CHECKING:
    import torch

    from videotok.keyframes.protocol import KeyframeTokenizerProtocol

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
    from videotok.published.assemble import load_lavit

    return load_lavit(folder, dtype)


OWN: dict[str, Loader] = {"KeyframeTokenizer": _own, "LavitKeyframes": _lavit, "VQModel": _vqmodel}
