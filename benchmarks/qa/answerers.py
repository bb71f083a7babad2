"""Answerers: what answers the questions, one class each.

blind     the question alone: the most frequent training answer
text      the question alone: a small network over n-grams
lm        a language model of `videotok.lm` that reads the video's tokens or features
openai    a model behind a chat endpoint that is shown frames, or tokens as text
"""

import base64
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from benchmarks.qa.annotations import Question
from benchmarks.qa.chat import ChatEndpoint, ChatError
from benchmarks.qa.journal import Journal
from benchmarks.qa.protocols import PROTOCOLS, QaProtocol
from codec import ClipSpec, MediaError, iter_clips
from videotok.image_utils import display_size, encode_jpeg, resize
from videotok.vocabulary import Vocabulary


class Answerer(Protocol):
    """What a benchmark asks its questions: a class that is constructed with `AnswererOptions`.

    To add one, write a class with these members and name it `--answerer package.module:Class`.
    """

    needs_video: bool
    """Whether a question whose video is missing stays without an answer."""

    def describe(self) -> dict[str, Any]:
        """Return what the answers depend on. It is written into the results, and compared when a run is resumed."""
        ...

    def answer(self, question: str, video: Path | None) -> str:
        """Return the answer: short and in lower case, like those of the annotations, where these are compared."""
        ...


@dataclass(frozen=True)
class AnswererOptions:
    """What the command line gives an answerer."""

    load_train_questions: Callable[[], Sequence[Question]]
    """Loads the questions of the train split."""
    cache: Path
    """Folder of encoded videos."""
    model: str | None = None
    """Folder of a language model, or the name of an endpoint's model."""
    video_model: str | None = None
    """Folder or hub id of video weights; None: the shipped ones."""
    url: str | None = None
    """Of the endpoint, up to and including `/v1`."""
    show: str = "frames"
    """What an endpoint is shown of a video: frames or tokens."""
    instruction: str = ""
    """Added after each question, for language models that were trained to chat."""
    protocol: QaProtocol = PROTOCOLS["exact"]
    """How questions are put to a model, and whether its whole reply is the answer."""
    seed: int = 0
    inputs: Literal["auto", "ids", "features"] = "auto"
    """What a language model reads of keyframes; auto: what it was trained with."""


def make_answerer(name: str, options: AnswererOptions) -> Answerer:
    """Construct one of `ANSWERERS`, or a user's own, `package.module:Class`.

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


@dataclass(frozen=True)
class MediaQuestion:
    """A question as it is put to an answerer."""

    question_id: str
    text: str
    media: Path | None
    """The video or picture; None where it is missing."""


def answer_all(answerer: Answerer, questions: Sequence[MediaQuestion], journal: Journal, progress: Progress) -> None:
    """Ask the questions that the journal has no answer of, and write each answer into it.

    A question whose video or picture is missing is left out where the answerer needs one; one that is damaged gets an
    empty answer, and its row says why.

    Raises:
        SystemExit: the endpoint gives no answer; the same command goes on from there.
    """
    for question in progress.track(questions, description="questions"):
        if question.question_id in journal.rows or (answerer.needs_video and question.media is None):
            continue
        try:
            journal.add(question.question_id, {"answer": answerer.answer(question.text, question.media)})
        except MediaError as error:  # a damaged video must not end the run
            journal.add(question.question_id, {"answer": "", "error": str(error)})
        except ChatError as error:
            raise SystemExit(f"{error}; the same command resumes from here") from error


def finish_answer(text: str, protocol: QaProtocol) -> str:
    """Return what is scored of a model's reply: all of it where a judge reads it, else its shortened form."""
    return text.strip() if protocol.is_judged else shorten_answer(text)


def shorten_answer(text: str) -> str:
    """Return the first sentence of a reply, in lower case without its full stop, like the annotations' answers."""
    sentence = text.strip().split("\n")[0]
    for mark in (". ", "! ", "? "):
        sentence = sentence.split(mark)[0]
    return sentence.strip().strip(".!?\"'").strip().lower()


class BlindAnswerer:
    """The most frequent training answer of the longest known beginning of the question.

    For a question that occurs in training, this is its most frequent answer; else that of all questions that begin
    alike. It is the baseline that a model must beat to show that it uses the video.
    """

    needs_video = False

    def __init__(self, options: AnswererOptions) -> None:
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for question in options.load_train_questions():
            words = tuple(question.text.split())
            for length in range(len(words) + 1):
                counts[words[:length]][question.answer] += 1
            counts[(*words, "")][question.answer] += 1  # the complete question, without longer ones
        # of equally frequent answers the alphabetically first one, so that every run gives the same
        self._best = {key: min(found.items(), key=lambda pair: (-pair[1], pair[0]))[0] for key, found in counts.items()}

    def describe(self) -> dict[str, Any]:
        """Return the name alone: the train split never changes."""
        return {"answerer": "blind"}

    def answer(self, question: str, video: Path | None) -> str:
        """Return the most frequent answer; the video is not used."""
        del video
        words = (*question.split(), "")
        return next(self._best[words[:length]] for length in range(len(words), -1, -1) if words[:length] in self._best)


class NgramClassifier(nn.Module):
    """Mean of the embeddings of a question's hashed n-grams, a hidden layer, one logit for each answer."""

    buckets, width, dropout = 1 << 15, 128, 0.3

    def __init__(self, num_answers: int) -> None:
        super().__init__()
        self.embeddings = nn.EmbeddingBag(self.buckets, self.width, mode="mean", sparse=True)
        self.hidden = nn.Sequential(
            nn.Dropout(self.dropout), nn.Linear(self.width, self.width), nn.GELU(), nn.Dropout(self.dropout)
        )
        self.out = nn.Linear(self.width, num_answers)
        nn.init.normal_(self.embeddings.weight, std=0.5)

    def forward(self, questions: Sequence[str]) -> Tensor:
        """Return logits [questions, answers]."""
        rows = [self.hash_ngrams(question) for question in questions]
        offsets = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
        ngrams = torch.tensor([ngram for row in rows for ngram in row])
        return self.out(self.hidden(self.embeddings(ngrams, offsets)))

    @classmethod
    def hash_ngrams(cls, question: str) -> list[int]:
        """Return the buckets of all runs of one to three words, with begin and end marks, and of longer beginnings."""
        words = ["^", *question.split(), "$"]
        runs = [" ".join(words[start : start + n]) for n in (1, 2, 3) for start in range(len(words) - n + 1)]
        runs += ["^" + " ".join(words[:n]) for n in (4, 5)] + [" ".join(words)]
        return [zlib.crc32(run.encode()) % cls.buckets for run in runs]


class TextAnswerer:
    """An `NgramClassifier` that is trained on the train split when it is constructed: some minutes on a CPU core."""

    needs_video = False
    epochs, batch_size, learning_rate = 8, 128, 3e-3
    min_count = 2
    """Less frequent answers are not learned."""

    def __init__(self, options: AnswererOptions) -> None:
        self.seed = options.seed
        torch.manual_seed(options.seed)
        questions = options.load_train_questions()
        counts = Counter(question.answer for question in questions)
        questions = [question for question in questions if counts[question.answer] >= self.min_count]
        self.answers = sorted({question.answer for question in questions})
        numbers = {answer: index for index, answer in enumerate(self.answers)}
        self.network = NgramClassifier(len(self.answers))
        self._train(
            [question.text for question in questions],
            torch.tensor([numbers[question.answer] for question in questions]),
        )
        self.network.eval()

    def _train(self, questions: list[str], labels: Tensor) -> None:
        network = self.network
        optimizers = (
            torch.optim.SparseAdam(list(network.embeddings.parameters()), self.learning_rate),
            torch.optim.AdamW([*network.hidden.parameters(), *network.out.parameters()], self.learning_rate),
        )
        steps = self.epochs * -(-len(questions) // self.batch_size)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0))
            for optimizer in optimizers
        ]
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(questions)).split(self.batch_size):
                logits = network([questions[index] for index in chosen.tolist()])
                nn.functional.cross_entropy(logits, labels[chosen]).backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                for schedule in schedules:
                    schedule.step()

    def describe(self) -> dict[str, Any]:
        """Return the name and the seed of the training."""
        return {"answerer": "text", "seed": self.seed}

    @torch.no_grad()
    def answer(self, question: str, video: Path | None) -> str:
        """Return the most likely answer; the video is not used."""
        del video
        return self.answers[int(self.network([question]).argmax())]


class LanguageModelAnswerer:
    """A language model of `videotok.lm`; each video is encoded once and kept in the cache."""

    needs_video = True
    max_new_tokens = 24

    def __init__(self, options: AnswererOptions) -> None:
        if options.model is None:
            raise SystemExit("--answerer lm needs --model, the folder of a language model (`videotok lm train`)")
        # transformers takes seconds to import, and the other answerers do not need it
        from videotok.lm.data import TokenCache
        from videotok.lm.loading import load_language_model

        self.name, self.seed, self.instruction = options.model, options.seed, options.instruction
        self.protocol = options.protocol
        loaded = load_language_model(options.model, options.video_model, options.inputs)
        self.model, self.inputs = loaded.model, loaded.inputs
        if loaded.note:
            print(loaded.note, file=sys.stderr)
        self.cache = TokenCache(options.cache, loaded.tokenizer, self.model.settings, self.model.feature_kinds)

    def describe(self) -> dict[str, Any]:
        """Return the model, what it reads, the instruction and the seed."""
        settings = {"instruction": self.instruction, "seed": self.seed}
        return {"answerer": "lm", "model": self.name, "inputs": self.inputs, **settings}

    def answer(self, question: str, video: Path | None) -> str:
        """Return the model's answer."""
        from videotok.lm.generation import answer

        encoded = None if video is None else self.cache.get(video)
        asked = self.protocol.format_question(question) + self.instruction
        text = answer(self.model, asked, encoded, max_new_tokens=self.max_new_tokens, seed=self.seed)
        return finish_answer(text, self.protocol)


class EndpointAnswerer:
    """A model behind a chat endpoint, shown keyframes of evenly spaced clips, or tokens by their vocabulary names."""

    needs_video = True
    max_clips, max_tokens = 8, 24
    image_area, jpeg_quality = 448 * 448, 90
    """Pixels of a frame that is shown, about."""
    instruction = "Answer the question about this video with a single word or a short phrase, in lower case."
    """Before the question, where answers are compared exactly."""

    def __init__(self, options: AnswererOptions) -> None:
        if options.url is None or options.model is None:
            raise SystemExit("--answerer openai needs --url, such as http://localhost:8000/v1, and --model")
        if options.show not in ("frames", "tokens"):
            raise SystemExit(f"--show {options.show!r} must be frames or tokens")
        self.endpoint = ChatEndpoint(options.url, options.model, options.seed)
        self.options = options
        self._last: tuple[Path | None, list[dict[str, Any]]] = (None, [])

    def describe(self) -> dict[str, Any]:
        """Return the endpoint, its model, what it is shown, and the seed."""
        endpoint = self.endpoint
        settings = {"show": self.options.show, "seed": endpoint.seed}
        return {"answerer": "openai", "url": endpoint.url, "model": endpoint.model, **settings}

    def answer(self, question: str, video: Path | None) -> str:
        """Return the model's answer."""
        parts = [] if video is None else self._video_parts(video)
        protocol = self.options.protocol
        asked = protocol.format_question(question)
        text = asked if protocol.is_judged else f"{self.instruction}\n{asked}"
        return finish_answer(self.endpoint.ask([*parts, {"type": "text", "text": text}], self.max_tokens), protocol)

    def _video_parts(self, video: Path) -> list[dict[str, Any]]:
        """Return the parts of a message that show a video; kept for the next question about the same one."""
        if self._last[0] != video:
            self._last = (video, self._frames(video) if self.options.show == "frames" else self._tokens(video))
        return self._last[1]

    def _frames(self, video: Path) -> list[dict[str, Any]]:
        from videotok.lm.packing import evenly_spaced

        keyframes = [clip.keyframe for clip in iter_clips(video, ClipSpec(fps=6))]  # pyright: ignore[reportArgumentType]
        chosen = [keyframes[index] for index in evenly_spaced(len(keyframes), self.max_clips)]
        return [{"type": "image_url", "image_url": {"url": self._data_url(image)}} for image in chosen]

    def _tokens(self, video: Path) -> list[dict[str, Any]]:
        from videotok.lm.data import TokenCache
        from videotok.lm.model import VideoSettings
        from videotok.lm.packing import evenly_spaced
        from videotok.pipeline import VideoTokenizer

        tokenizer = VideoTokenizer.from_pretrained(self.options.video_model)
        tokens = TokenCache(self.options.cache, tokenizer, VideoSettings()).get(video).tokens
        vocabulary = Vocabulary.of(tokens, 1)
        ids = vocabulary.ids(tokens, evenly_spaced(tokens.num_clips, self.max_clips))
        return [{"type": "text", "text": " ".join(map(vocabulary.name, ids.tolist()))}]

    def _data_url(self, image: np.ndarray) -> str:
        size = display_size(image.shape[1], image.shape[0], self.image_area)
        return (
            "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(resize(image, size), self.jpeg_quality)).decode()
        )


ANSWERERS: dict[str, Callable[[AnswererOptions], Answerer]] = {
    "blind": BlindAnswerer,
    "text": TextAnswerer,
    "lm": LanguageModelAnswerer,
    "openai": EndpointAnswerer,
}
