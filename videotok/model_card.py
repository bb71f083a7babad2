"""What a stranger reads of a folder of weights: README.md in the form of the Hugging Face Hub, and config.json.

The parts have both already; these two are of the whole folder. They say nothing that the parts do not, and
`VideoTokenizer.from_pretrained` does not need them.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videotok.io_utils import read_json, write_json

CLASS_NAME = "VideoTokenizer"
"""`_class_name` in the config.json of a whole folder."""
PART_TEXTS = {
    "keyframes": "keyframes to visual ids, and back",
    "motion": "motion vectors to motion ids, and back",
    "detokenizer": "keyframes and motion to frames",
}
SHOWN_OPTIONS = {
    "keyframes": ("image_size", "patch_size", "codebook_size", "default_keep_ratio"),
    "motion": (
        "num_steps",
        "grid",
        "codebook_size",
        "num_quantizers",
        "default_num_quantizers",
        "global_motion_codebook_size",
    ),
    "detokenizer": ("fps", "num_inference_steps"),
}
"""Options of a part's config.json that say what its ids and frames are; those of its layers stay in the part's own."""


@dataclass(frozen=True)
class PartFacts:
    """What is known of one model of a folder, without loading it."""

    class_name: str
    parameters: int
    """Values in its file, those of codebooks included."""
    sha256: str
    """Of the weights: ids can only be decoded with the same."""


def write_config(folder: Path, parts: dict[str, PartFacts]) -> None:
    """Write config.json of a folder of weights; one that belongs to another model is left alone.

    Args:
        folder: with a subfolder for each of the parts.
        parts: part -> facts.
    """
    path = folder / "config.json"
    if path.is_file() and read_json(path).get("_class_name") != CLASS_NAME:
        return
    config: dict[str, Any] = {
        "_class_name": CLASS_NAME,
        "_library_name": "videotok",
        "_library_version": version("videotok"),
        "parts": {part: _part_config(folder / part, part, facts) for part, facts in parts.items()},
    }
    write_json(path, config)


def _part_config(folder: Path, part: str, facts: PartFacts) -> dict[str, Any]:
    options = read_json(folder / "config.json")
    return {
        "what": PART_TEXTS[part],
        "class": facts.class_name,
        "parameters": facts.parameters,
        "sha256": facts.sha256,
        **{name: options[name] for name in SHOWN_OPTIONS[part] if name in options},
    }


def write_card(folder: Path, name: str, parts: dict[str, PartFacts]) -> None:
    """Write README.md of a folder of weights, where there is none.

    Args:
        folder: with a subfolder for each of the parts, some of which have a card of their own.
        name: a hub id, or what the weights are called.
        parts: part -> facts.
    """
    path = folder / "README.md"
    if path.exists():
        return
    rows = [
        f"| {_link(folder, part)} | {PART_TEXTS[part]} | `{facts.class_name}` | {facts.parameters / 1e6:.1f} M |"
        for part, facts in parts.items()
    ]
    licence = _licence(folder, parts)
    text = CARD.format(name=name, rows="\n".join(rows), licence=f"license: {licence}\n" if licence else "")
    path.write_text(text, encoding="utf-8")


def _licence(folder: Path, parts: dict[str, PartFacts]) -> str | None:
    """Return the licence that the cards of all parts name; None where they do not agree, or one has no card."""
    found = {_card_licence(folder / part / "README.md") for part in parts}
    return found.pop() if len(found) == 1 else None


def _link(folder: Path, part: str) -> str:
    return f"[{part}]({part}/README.md)" if (folder / part / "README.md").is_file() else part


def _card_licence(card: Path) -> str | None:
    from huggingface_hub import ModelCard

    return ModelCard.load(card, ignore_metadata_errors=True).data.get("license") if card.is_file() else None


CARD = """---
library_name: videotok
pipeline_tag: video-to-video
{licence}tags:
- videotok
- video-tokenizer
- motion-vectors
---

# {name}

Weights of videotok, which turns a video into a short sequence of discrete tokens that a language model can read and
write, and back: keyframes to visual ids, and the motion vectors of the codec to motion ids.

| part | what it does | class | parameters, codebooks included |
|---|---|---|---|
{rows}

```python
from videotok import VideoTokenizer

tokenizer = VideoTokenizer.from_pretrained("{name}")  # revision= takes a branch, tag or commit
tokens = tokenizer.encode("clip.mp4")
tokens.save("clip.vtok")
frames = tokenizer.decode(tokens)  # uint8 [H, W, 3] RGB, one after another
```

On the command line: `videotok encode clip.mp4 --model {name}`, then `videotok decode clip.vtok --model {name}`. Ids can
only be decoded with the weights that they were made with; `config.json` has the sha256 of each. The cards of the parts
say what they were trained on and what they reach.
"""
