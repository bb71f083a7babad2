"""How a corpus is encoded, and the fingerprint that says which corpora may be mixed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from codec import ClipSpec
from videotok.config import EncodeConfig
from videotok.corpus import DEFAULT_CONFIG
from videotok.errors import CorpusError
from videotok.tokens import TOKENIZERS, spec_facts

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

PACKAGES = ("videotok", "av", "opencv-python", "numpy", "torch")
"""Packages that turn a file into ids: another version may decode or resize differently by a bit."""

OPTIONS = ("fps", "keep_ratio", "refinement_steps", "motion_quantizers", "motion_source")
"""Options of EncodeConfig that a corpus supports and that decide its ids."""
IRRELEVANT_OPTIONS = ("batch_size", "isolate", "jpeg_quality", "seed")
"""Options that a corpus accepts and that do not change its ids. Files are always decoded in a child process."""
OPTIONS_BEFORE_2 = {"keep": "keep_ratio", "motion_levels": "motion_quantizers"}
"""Names in the fingerprint of version 1 -> options today."""


@dataclass(frozen=True)
class Fingerprint:
    """All that tokens depend on besides the video; two corpora may be mixed only if theirs are equal."""

    facts: Mapping[str, Mapping[str, Any]]
    """`weights`: sha256 of each model; `spec`: frames, rate and grid of clips; `config`: options of EncodeConfig;
    `versions`: of packages. Plain values. Corpora of schema version 1 have their options in `spec`."""

    @property
    def text(self) -> str:
        """The facts as JSON; equal facts give equal text."""
        return json.dumps(self.facts, sort_keys=True)

    @property
    def sha256(self) -> str:
        """Digest of the text, which every row carries."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def config(self) -> EncodeConfig:
        """The options that the corpus was encoded with."""
        options = self.facts.get("config")
        if options is None:
            spec = self.facts["spec"]
            options = {OPTIONS_BEFORE_2.get(name, name): value for name, value in spec.items()}
            options = {name: value for name, value in options.items() if name in OPTIONS}
        return EncodeConfig.from_dict({"predict_keyframes": False, **options})

    @property
    def spec(self) -> ClipSpec:
        """Frames, rate and grid of the corpus' clips."""
        spec = self.facts["spec"]
        return ClipSpec(spec["frames"], Fraction(spec["fps"]), tuple(spec["grid"]))

    def check(self, other: "Fingerprint", folder: object) -> None:
        """Check that a corpus made with `other` can be continued with this.

        Raises:
            CorpusError: they differ; the message has the first difference with both values.
        """
        for group in dict.fromkeys([*self.facts, *other.facts]):
            here, there = self.facts.get(group, {}), other.facts.get(group, {})
            for name in sorted(here.keys() | there.keys()):
                if here.get(name) != there.get(name):
                    raise CorpusError(
                        f"{folder} was made with {group} {name} = {_shortened(there.get(name))}, now it is "
                        f"{_shortened(here.get(name))}; take another folder, or overwrite this one"
                    )


@dataclass(frozen=True)
class EncodePlan:
    """All that the workers of a job need to know. Plain data: it is sent to every worker."""

    model: str | None
    """None: the weights that ship with videotok. Else a folder that every worker can read, or a hub id."""
    config: EncodeConfig
    """With the number of motion quantizers filled in."""
    spec: ClipSpec
    image_size: int
    """Side of the resized keyframes, in pixels."""
    codebooks: Mapping[str, int]
    fingerprint: Fingerprint


def make_plan(model: str | None, config: EncodeConfig) -> EncodePlan:
    """Load the tokenizers once and return the plan of a job.

    Raises:
        ModelError: there is no such model.
        CorpusError: an option that a corpus, or this model, does not support.
    """
    from videotok.pipeline import VideoTokenizer  # loads torch

    _check_options(config)
    tokenizer = VideoTokenizer.from_pretrained(model)
    try:
        tokenizer.check(config)
    except ValueError as error:
        raise CorpusError(str(error)) from error
    if config.motion_quantizers is None:
        config = replace(config, motion_quantizers=tokenizer.default_motion_quantizers)
    spec = tokenizer.spec(config.fps)
    image_size = tokenizer.keyframes.image_size
    return EncodePlan(model, config, spec, image_size, tokenizer.codebooks, _fingerprint(tokenizer, config))


def _check_options(config: EncodeConfig) -> None:
    """Refuse options that would be ignored.

    Raises:
        CorpusError: names the option.
    """
    wanted, default = config.to_dict(), DEFAULT_CONFIG.to_dict()
    for name, value in wanted.items():
        if name not in (*OPTIONS, *IRRELEVANT_OPTIONS) and value != default[name]:
            raise CorpusError(
                f"a corpus cannot be encoded with `{name}` = {value!r}: its clips are encoded independently of each "
                f"other; leave it at {default[name]!r}"
            )


def _fingerprint(tokenizer: "VideoTokenizer", config: EncodeConfig) -> Fingerprint:
    options = config.to_dict()
    return Fingerprint(
        {
            "weights": {part: tokenizer.bundle.identity(part).sha256 for part in TOKENIZERS},
            "spec": spec_facts(tokenizer.spec(config.fps)),
            "config": {name: options[name] for name in OPTIONS},
            "versions": {package: version(package) for package in PACKAGES},
        }
    )


def _shortened(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
