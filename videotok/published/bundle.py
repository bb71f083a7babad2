"""PublishedBundle: the published layout where a bundle is expected, as files or from the hub, nothing converted"""

from dataclasses import dataclass
from typing import Any

import torch

from unet3d import LatentDetokenizer, VideoDetokenizer
from videotok.bundle import Bundle, downloaded
from videotok.errors import ModelError
from videotok.published.assemble import latent_detokenizer, single, with_painter
from videotok.published.folder import PLAIN, UNET, PublishedFolder
from videotok.published.keyframes import LavitKeyframes
from videotok.published.parts import PARTS, build, check, skeleton
from videotok.source import ModelIdentity

DRAWING = ("keyframes/condition", "keyframes/unet", "keyframes/vae", "keyframes/scheduler")
"""What decoding a keyframe's words needs beside the tokenizer."""


@dataclass(frozen=True)
class PublishedBundle(Bundle):
    """A download, whole or in part. What is not there is missed when it is needed, and not before."""

    hub_id: str | None = None
    """Where parts are downloaded from when they are needed; None: the folder has what it has."""

    def load(self, part: str, model_class: type, dtype: torch.dtype) -> Any:
        """One of the parts that are ours; see `Bundle.load`."""
        folder = self._with(part)
        read = folder.read(part)
        config = folder.config(part, read)
        where = ", ".join(path.name for path in folder.files(part))
        check(PARTS[part], skeleton(PARTS[part], config), read.shapes, where, extra=True)
        model = build(PARTS[part], read, config, dtype)
        if not isinstance(model, model_class):
            raise ModelError(f"{part} of model {self.name} is a {type(model).__name__}, no {model_class.__name__}")
        return model

    def load_keyframes(self, dtype: torch.dtype) -> Any:
        """The keyframe tokenizer; able to draw where the files for it are there."""
        if "keyframes" in self.elsewhere:
            return super().load_keyframes(dtype)
        model: LavitKeyframes = self.load("keyframes", LavitKeyframes, single(dtype))
        if dtype == torch.float64:  # it is to encode, and will not draw
            return model
        folder = self._with(*DRAWING)
        condition = None
        if not folder.missing("keyframes/condition"):
            condition = self.load("keyframes/condition", PARTS["keyframes/condition"].model, dtype)
        unet, vae, scheduler = (folder.folder / PLAIN[part] for part in DRAWING[1:])
        return with_painter(model, condition, unet, vae, scheduler, dtype)

    def load_detokenizer(self, dtype: torch.dtype) -> LatentDetokenizer:
        """The video detokenizer with its autoencoder and scheduler."""
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

    def _with(self, *parts: str) -> PublishedFolder:
        """The folder, after the files of these parts were fetched."""
        if self.hub_id is None:
            return PublishedFolder(self.folder)
        patterns = [pattern for part in parts for pattern in _patterns(part)]
        return PublishedFolder(downloaded(self.hub_id, patterns))


def _patterns(part: str) -> list[str]:
    if part in PLAIN:
        return [f"{PLAIN[part]}/*"]
    return [*PARTS[part].files, *([f"{UNET}/config.json"] if part == "detokenizer" else [])]
