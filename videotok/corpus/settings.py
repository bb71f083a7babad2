"""What tokens depend on besides the video: weights, spec and versions. Two corpora are one only if these agree.

How a corpus is encoded: what a user chooses, and what every worker is told.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from typing import Any, Literal

from codec import ClipSpec
from videotok.errors import CorpusError
from videotok.tokens import TOKENIZERS, spec_facts

PACKAGES = ("videotok", "av", "opencv-python", "numpy", "torch")
"""Packages that take part in turning a file into ids: another version may decode or resize by a bit differently."""


@dataclass(frozen=True)
class Fingerprint:
    """Facts in the order in which they are compared; plain values, nested one level."""

    facts: Mapping[str, Mapping[str, Any]]
    """`weights`: sha256 of each model; `spec`: clips and rates; `versions`: packages."""

    @property
    def text(self) -> str:
        """The facts as JSON: equal facts, equal text."""
        return json.dumps(self.facts, sort_keys=True)

    @property
    def sha256(self) -> str:
        """Of the text: what each row carries."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def check(self, other: "Fingerprint", folder: object) -> None:
        """Refuses to go on with what `other` began.

        Raises:
            CorpusError: they differ; names the first difference with both values.
        """
        for group in self.facts.keys() | other.facts.keys():
            here, there = self.facts.get(group, {}), other.facts.get(group, {})
            for name in sorted(here.keys() | there.keys()):
                if here.get(name) != there.get(name):
                    raise CorpusError(
                        f"{folder} was made with {group} {name} = {_short(there.get(name))}, this command has "
                        f"{_short(here.get(name))}; take another folder, or --overwrite to begin anew"
                    )


def installed() -> dict[str, str]:
    """Versions of the packages that matter."""
    return {package: version(package) for package in PACKAGES}


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


@dataclass(frozen=True)
class Settings:
    """The arguments of `videotok encode`, for every video."""

    model: str | None = None
    """None: the weights that ship. A folder, which every worker can read, or a hub id."""
    fps: Fraction = Fraction(12)
    keep: float | None = None
    motion_quantizers: int | None = None
    motion_source: Literal["auto", "native", "reencode", "mpeg4"] = "auto"


@dataclass(frozen=True)
class Plan:
    """Settings, and what the weights say to them. Plain data: it travels to every worker."""

    settings: Settings
    spec: ClipSpec
    side: int
    """Of the squashed keyframes, in pixels."""
    motion_quantizers: int
    codebooks: dict[str, int]
    fingerprint: Fingerprint

    @classmethod
    def of(cls, settings: Settings) -> "Plan":
        """Loads the tokenizers once to see what they are.

        Raises:
            ModelError: there is no such model.
            CorpusError: more motion levels than the model has.
        """
        from videotok.pipeline import VideoTokenizer  # torch; not every worker needs it

        tokenizer = VideoTokenizer.from_pretrained(settings.model)
        spec = tokenizer.spec(settings.fps)
        most = tokenizer.motion_encoder.num_quantizers
        levels = settings.motion_quantizers
        if levels is not None and levels > most:
            raise CorpusError(f"--motion-quantizers {levels}: this model has {most} levels")
        levels = tokenizer.motion_encoder.default_num_quantizers if levels is None else levels
        choices = {"keep": settings.keep, "motion_quantizers": levels, "motion_source": settings.motion_source}
        facts = {
            "weights": {part: tokenizer.bundle.identity(part).sha256 for part in TOKENIZERS},
            "spec": spec_facts(spec) | choices,
            "versions": installed(),
        }
        side = tokenizer.keyframe_encoder.image_size
        return cls(settings, spec, side, levels, tokenizer.codebooks, Fingerprint(facts))
