"""How a corpus is encoded: what a user chooses, and what every worker is told."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from codec import ClipSpec
from videotok.corpus.fingerprint import Fingerprint, installed
from videotok.errors import CorpusError
from videotok.source import spec_facts
from videotok.tokens import TOKENIZERS


@dataclass(frozen=True)
class Settings:
    """The arguments of `videotok encode`, for every video."""

    model: str | None = None
    """None: the weights that ship. A folder, which every worker can read, or a hub id."""
    fps: Fraction = Fraction(12)
    keep: float | None = None
    motion_levels: int | None = None
    motion_source: Literal["auto", "native", "reencode", "mpeg4"] = "auto"


@dataclass(frozen=True)
class Plan:
    """Settings, and what the weights say to them. Plain data: it travels to every worker."""

    settings: Settings
    spec: ClipSpec
    side: int
    """Of the squashed keyframes, in pixels."""
    motion_levels: int
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
        most = tokenizer.motion_encoder.num_levels
        levels = settings.motion_levels
        if levels is not None and levels > most:
            raise CorpusError(f"--motion-levels {levels}: this model has {most} levels")
        levels = tokenizer.motion_encoder.default_levels if levels is None else levels
        choices = {"keep": settings.keep, "motion_levels": levels, "motion_source": settings.motion_source}
        facts = {
            "weights": {part: tokenizer.bundle.identity(part).sha256 for part in TOKENIZERS},
            "spec": spec_facts(spec) | choices,
            "versions": installed(),
        }
        side = tokenizer.keyframe_encoder.image_size
        return cls(settings, spec, side, levels, tokenizer.codebooks, Fingerprint(facts))
