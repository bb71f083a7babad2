"""EncodeConfig and DecodeConfig: every option of encoding and decoding, in one place.

Python, the command line, the corpus job, training and evaluation all take these.
"""

import re
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from numbers import Rational, Real
from typing import Any, Literal, Self, get_args

from videotok.errors import shorten

MotionSourceChoice = Literal["auto", "native", "reencode", "mpeg4"]
KeyframeStorage = Literal["tokens", "jpeg"]
KeyframeSource = Literal["auto", "tokens", "jpeg"]
PatchSelection = Literal["threshold", "sample"]

MAX_INTEGER = 2**53
"""Largest whole number of an option: JSON readers hold it exactly."""
RATE_TEXT = re.compile(r"[0-9]{1,9}/[0-9]{1,9}|[0-9]{0,9}\.?[0-9]{0,9}(e[+-]?[0-9]{1,2})?", re.IGNORECASE)
"""Frame rates that are parsed. The digits are limited because Fraction("1e99999999") takes hours and all memory."""
MIN_RATE, MAX_RATE = Fraction(1, 3600), Fraction(1000)
"""Limits of a frame rate, in frames a second."""


@dataclass(frozen=True)
class _Config:
    """Base of both configs: checks of ranges, and plain values for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values; `from_dict` gives an equal config back."""
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a config from plain values, as `to_dict` gives them or as JSON holds them.

        Raises:
            ValueError: an option that does not exist, or a value out of range.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"{cls.__name__} has no option {', '.join(unknown)}; options are {', '.join(sorted(known))}"
            )
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def _check_choice(self, name: str, choices: Any) -> None:
        value, allowed = getattr(self, name), get_args(choices)
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"`{name}` (={shorten(value)}) must be one of {', '.join(allowed)}")

    def _check_flag(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` (={shorten(value)}) must be True or False")

    def _check_integer(self, name: str, low: int, high: int = MAX_INTEGER, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            limits = f"at least {low}" if high == MAX_INTEGER else f"from {low} to {high}"
            if isinstance(value, int) and value > high == MAX_INTEGER:
                limits = f"of at most {high}"
            raise ValueError(f"`{name}` (={shorten(value)}) must be a whole number {limits}")

    def _check_number(self, name: str, low: float, high: float = MAX_INTEGER, *, above: bool = False) -> None:
        """Refuse what is not a number from `low` to `high`; `low` itself too with `above`."""
        value: Any = getattr(self, name)
        if not _is_number(value) or not low <= value <= high or (above and value == low):
            lowest = f"above {low:g}" if above else f"{low:g} or more"
            limits = f"{lowest}, and finite" if high == MAX_INTEGER else f"{lowest} and at most {high:g}"
            raise ValueError(f"`{name}` (={shorten(value)}) must be {limits}")
        if not isinstance(value, int):
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class EncodeConfig(_Config):
    """How a video becomes tokens.

    Raises:
        ValueError: a value out of range, or two options that contradict each other.
    """

    fps: Fraction = Fraction(12)
    """Frames a second of the clips, above 0 to 1000; 12 for reconstruction, 6 for understanding. Text such as
    "30000/1001" and numbers are accepted."""
    keep_ratio: float | None = None
    """Share of a keyframe's patches to keep, above 0 to 1, on average over many images. None: the model's own."""
    tokens_per_keyframe: int | None = None
    """Visual tokens of a keyframe on average, never more in all; excludes `keep_ratio`."""
    tokens_per_second: float | None = None
    """Ids of all kinds per second of video, on average and within 5 %: motion quantizers and visual tokens go to the
    clips where they help most. Excludes `keep_ratio` and `tokens_per_keyframe`; `motion_quantizers` is then the most
    that a clip has. A picture gets the tokens of a whole clip. None: every clip has the same number of quantizers, and
    visual tokens as those two options say."""
    predict_keyframes: bool = True
    """Encode of a keyframe only what the clip before does not predict. False: every clip is independent."""
    keyframe_storage: KeyframeStorage = "tokens"
    """`jpeg` stores the keyframes as JPEG files beside their tokens, for decoding with exact pictures."""
    jpeg_quality: int = 90
    """JPEG quality of stored keyframes, 1 to 100."""
    refinement_steps: int | None = None
    """Steps of code refinement (analysis by synthesis). None: the model's own number."""
    patch_selection: PatchSelection = "threshold"
    """`sample` draws the kept patches, as the published Video-LaVIT code does; only with its weights."""
    seed: int = 0
    """Seed of `patch_selection="sample"`; nothing else is random."""
    motion_quantizers: int | None = None
    """Residual quantizers of motion ids; 0 keeps only the global motion. None: the model's own number, or with
    `tokens_per_second` all that it has."""
    motion_source: MotionSourceChoice = "auto"
    """`native`: the stream's own vectors; `reencode`: those of an x264 re-encoding; `auto`: native where there are any;
    `mpeg4`: those of an MPEG-4 Part 2 re-encoding, which the published Video-LaVIT weights were trained on."""
    start_seconds: float = 0.0
    """Where to begin, in seconds from the video's first frame."""
    duration_seconds: float | None = None
    """Seconds of video to encode. None: to the end."""
    max_clips: int | None = None
    """Clips to encode at most. None: all."""
    stream: int | None = None
    """Index of the video stream among all streams of the file, as ffprobe shows it. None: its default video stream."""
    split_at_cuts: bool = False
    """Begin a new clip at every scene cut; the clip before it is short."""
    isolate: bool = False
    """Decode the video in a child process, for files from strangers."""
    batch_size: int | None = None
    """Clips that go through the models at once. Does not change the ids. None: 2 on a CPU, 8 on other devices."""

    def recorded(self) -> "EncodeConfig":
        """Return the config to be recorded with tokens: options that cannot change them are set to their defaults."""
        return replace(self, isolate=EncodeConfig.isolate, batch_size=EncodeConfig.batch_size)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", parse_rate(self.fps))
        if self.keep_ratio is not None:
            self._check_number("keep_ratio", 0, 1, above=True)
        rates = ("keep_ratio", "tokens_per_keyframe", "tokens_per_second")
        given = [f"`{name}`" for name in rates if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each set the rate; give one of them")
        if self.tokens_per_second is not None:
            self._check_number("tokens_per_second", 0, above=True)
            if self.patch_selection != "threshold":
                raise ValueError("`tokens_per_second` and `patch_selection` both select patches; give one of them")
        self._check_choice("keyframe_storage", KeyframeStorage)
        self._check_choice("patch_selection", PatchSelection)
        self._check_choice("motion_source", MotionSourceChoice)
        self._check_integer("tokens_per_keyframe", 1, optional=True)
        self._check_integer("jpeg_quality", 1, 100)
        self._check_integer("refinement_steps", 0, optional=True)
        self._check_integer("motion_quantizers", 0, optional=True)
        self._check_integer("max_clips", 1, optional=True)
        self._check_integer("batch_size", 1, optional=True)
        self._check_integer("seed", -MAX_INTEGER)
        self._check_integer("stream", 0, 65535, optional=True)
        for name in ("predict_keyframes", "split_at_cuts", "isolate"):
            self._check_flag(name)
        self._check_number("start_seconds", 0)
        if self.duration_seconds is not None:
            self._check_number("duration_seconds", 0, above=True)


@dataclass(frozen=True)
class DecodeConfig(_Config):
    """How tokens become frames.

    Raises:
        ValueError: a value out of range.
    """

    size: tuple[int, int] | None = None
    """(width, height) of the frames, each 16 to 4096. None: about 256 x 144 pixels in the source's own shape."""
    keyframe_source: KeyframeSource = "auto"
    """`tokens`: keyframes decoded from their ids; `jpeg`: the stored pictures; `auto`: the pictures where there are
    any."""
    motion_quantizers: int | None = None
    """Use only the first so many motion quantizers. None: all that the tokens hold."""
    num_inference_steps: int | None = None
    """Network evaluations of the video detokenizer per clip. None: the model's own number."""
    bidirectional: bool = True
    """Rebuild each clip between its own keyframe and the next one. False: from its own keyframe alone."""
    noise_rate: float = 1.0
    """Strength of the explicit noise constraint between clips, above 0 to 1; 1 starts each clip from pure noise."""
    seed: int = 0
    """Seed of the noise that fills in what the tokens do not say."""

    def __post_init__(self) -> None:
        if self.size is not None:
            sides = self.size if isinstance(self.size, tuple | list) and len(self.size) == 2 else (0, 0)
            if any(isinstance(side, bool) or not isinstance(side, int) or not 16 <= side <= 4096 for side in sides):
                raise ValueError(
                    f"`size` (={shorten(self.size)}) must be (width, height), whole numbers from 16 to 4096"
                )
            object.__setattr__(self, "size", tuple(self.size))
        self._check_choice("keyframe_source", KeyframeSource)
        self._check_integer("motion_quantizers", 0, optional=True)
        self._check_integer("num_inference_steps", 1, optional=True)
        self._check_integer("seed", -MAX_INTEGER)
        self._check_flag("bidirectional")
        self._check_number("noise_rate", 0, 1, above=True)


def parse_rate(value: Any) -> Fraction:
    """Return a frame rate as a fraction with a denominator of at most 100,000, as clips have.

    Args:
        value: a number, or text such as `12`, `12.5` or `30000/1001`.

    Raises:
        ValueError: not a number, or not between 1/3600 and 1000 frames a second.
    """
    try:
        if not _is_number(value):
            value = _checked_rate_text(str(value).strip())
        rate = Fraction(value if isinstance(value, str | Rational) else float(value)).limit_denominator(100_000)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        limits = "must be a number such as 12 or 30000/1001, from 1/3600 to 1000"
        raise ValueError(f"`fps` (={shorten(value)}) {limits}") from error
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"`fps` (={shorten(value)}) must lie between 1/3600 and 1000 frames a second")
    return rate


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _checked_rate_text(text: str) -> str:
    """Return the text of a rate that can be parsed at once.

    Raises:
        ValueError: it is none, or has too many digits.
    """
    if not RATE_TEXT.fullmatch(text):
        raise ValueError(text)
    return text
