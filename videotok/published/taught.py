"""Tokenizers that a language model was taught with: they lie among its own weights"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from videotok.published.folder import Opened, opened
from videotok.published.plain import weight_files

TOKENIZERS = {"model.visual_tokenizer.": "keyframes", "model.motion_tokenizer.": "motion"}
"""What stands before their keys -> our part."""


def taught(folder: Path) -> dict[str, Opened]:
    """Part -> its tensors by the names that `videotok.published.parts` knows; empty where the folder has none.

    The understanding model was taught together with a merger and a projection of its own: its features are not those
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
