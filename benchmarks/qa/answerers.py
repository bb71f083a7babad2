"""Who answers: one small class each"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmarks.qa.annotations import Question


class Answerer(Protocol):
    """Bring your own: a class with these, named `--answerer package.module:Class`, made with an `Options`."""

    needs_video: bool
    """Whether a question whose video is missing is left without an answer."""

    def facts(self) -> dict[str, Any]:
        """What its answers depend on: written into the results, and compared when a run is gone on with."""
        ...

    def answer(self, question: str, video: Path | None) -> str:
        """A short answer in lower case, as the annotations have them."""
        ...


@dataclass(frozen=True)
class Options:
    """What the command line knows."""

    train: Callable[[], Sequence[Question]]
    """Questions of the train split."""
    cache: Path
    model: str | None = None
    """Folder of a language model; name of an endpoint's model."""
    video_model: str | None = None
    url: str | None = None
    show: str = "frames"
    """What an endpoint is shown of a video: frames or tokens."""
    instruction: str = ""
    """Put behind each question, for language models that were embedded_tokenizers to chat."""
    seed: int = 0
    inputs: Literal["auto", "ids", "features"] = "auto"
    """What a language model is given of keyframes; auto: as it was embedded_tokenizers."""


class Blind:
    """Sees the question alone: the most frequent answer that the longest known beginning of it has in the train split.

    Of a question that was asked in training word for word that is its most frequent answer; else of all questions that
    begin alike. What a model with eyes has to beat.
    """

    needs_video = False

    def __init__(self, options: Options) -> None:
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for question in options.train():
            words = tuple(question.text.split())
            for length in range(len(words) + 1):
                counts[words[:length]][question.answer] += 1
            counts[(*words, "")][question.answer] += 1  # the whole question, and not others that go on
        # of equally frequent answers the first in the alphabet: the same on every run
        self.best = {key: min(found.items(), key=lambda pair: (-pair[1], pair[0]))[0] for key, found in counts.items()}

    def facts(self) -> dict[str, Any]:
        return {"answerer": "blind"}

    def answer(self, question: str, video: Path | None) -> str:
        del video
        words = (*question.split(), "")
        return next(self.best[words[:length]] for length in range(len(words), -1, -1) if words[:length] in self.best)


def _text(options: Options) -> Answerer:
    from benchmarks.qa.text import Text

    return Text(options)


def _lm(options: Options) -> Answerer:
    from benchmarks.qa.language_model import LanguageModel

    return LanguageModel(options)


def _endpoint(options: Options) -> Answerer:
    from benchmarks.qa.endpoint import Endpoint

    return Endpoint(options)


ANSWERERS: dict[str, Callable[[Options], Answerer]] = {
    "blind": Blind,
    "text": _text,
    "lm": _lm,
    "openai": _endpoint,
}


def answerer(name: str, options: Options) -> Answerer:
    """One of `ANSWERERS`, or a user's own, `package.module:Class`.

    Raises:
        SystemExit: there is none of that name.
    """
    if name in ANSWERERS:
        return ANSWERERS[name](options)
    module, _, attribute = name.partition(":")
    if not attribute:
        raise SystemExit(
            f"no answerer {name}; there are {', '.join(ANSWERERS)}, or give your own as package.module:Class"
        )
    try:
        return getattr(import_module(module), attribute)(options)
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"cannot load answerer {name}: {error}") from error


def tidy(text: str) -> str:
    """What a talkative model says, as the annotations write answers: the first sentence, lower case, no full stop."""
    first = text.strip().split("\n")[0]
    for mark in (". ", "! ", "? "):
        first = first.split(mark)[0]
    return first.strip().strip(".!?\"'").strip().lower()
