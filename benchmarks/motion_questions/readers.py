"""Tiny language models, each of which is shown the same videos in another form."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.motion_questions.coded import Coded
from benchmarks.motion_questions.scenes import ANSWERS
from videotok.lm.codebooks import Codebooks
from videotok.lm.documents import Document, VideoInput, conversation
from videotok.lm.embeddings import embeddings
from videotok.lm.extension import extend
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.packing import pack
from videotok.lm.prompt import Prompt, Turn
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.train import Plan, train
from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

FORMS = ("keyframe", "keyframes", "motion ids", "continuous motion", "raw field")
"""Rows of the table: the first keyframe's ids; those of every clip; with the first clip's motion as ids, as what the
encoder knows before it chooses ids, and as the codec's field itself."""
WIDTH, LAYERS = 96, 2
PROMPT = Prompt(before_user="", after_user="?", before_answer=" ", video_end="")


def shown(form: str, video: Coded, vocabulary: Vocabulary) -> VideoInput:
    """A video in one of the forms."""
    tokens = video.tokens.first_levels(min(vocabulary.motion_levels, video.tokens.num_motion_levels))
    rest = range(1, tokens.num_clips)
    if form == "keyframe":
        return VideoInput.of(vocabulary, tokens, [0], keyframes_only=True)
    if form == "keyframes":
        return VideoInput.of(vocabulary, tokens, keyframes_only=True)
    vectors = {"continuous motion": video.latents, "raw field": video.field}.get(form)
    features = None if vectors is None else [{"motion": value} for value in vectors]
    first = VideoInput.of(vocabulary, tokens, [0], features=features)
    later = VideoInput.of(vocabulary, tokens, rest, keyframes_only=True)
    return VideoInput(torch.cat([first.ids, later.ids]), first.features)


def reader(form: str, tokenizer: "VideoTokenizer", some: Coded, levels: int, seed: int) -> VideoLanguageModel:
    """A new model for one of the forms; all begin with the same weights where they have the same parts."""
    torch.manual_seed(seed)
    text = tiny_tokenizer([f"{question}? {answer}" for question, answers in ANSWERS.items() for answer in answers])
    model = tiny_llama(len(text), width=WIDTH, layers=LAYERS)
    vocabulary = extend(text, model, Codebooks.of(tokenizer, levels=levels))
    # words of the video stay what the codebooks say: each is seen too seldom to be learned, and would tell videos apart
    table = embeddings(model)
    is_text = (torch.arange(len(table)) < vocabulary.text_size)[:, None]
    table.register_hook(lambda gradient: gradient * is_text)
    sizes = {"continuous motion": some.latents[0].shape[1], "raw field": some.field[0].shape[1]}
    features = {"motion": sizes[form]} if form in sizes else {}
    return VideoLanguageModel(model, text, vocabulary, PROMPT, VideoSettings("12", levels), features)


def taught(
    form: str,
    tokenizer: "VideoTokenizer",
    videos: Sequence[Coded],
    out: Path,
    *,
    steps: int,
    levels: int,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
) -> VideoLanguageModel:
    """A model that has learned to answer about videos in one form; a run that is there already is gone on with."""
    model = reader(form, tokenizer, videos[0], levels, seed)
    rng = np.random.default_rng(seed)
    documents = [_lesson(form, video, model, rng) for video in videos]
    if model.feature_kinds:
        features = torch.cat([document.features["motion"] for document in documents])
        table = model.model.get_input_embeddings().weight
        model.projections["motion"].start(features, table[: model.vocabulary.text_size])  # type: ignore[operator]
    plan = Plan(
        steps,
        length=max(map(len, documents)),
        rows=16,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        seed=seed,
        save_every=max(steps // 4, 1),
    )
    train(model, documents, [], plan, out, resume=True, report=report)
    return model.eval()


def _lesson(form: str, video: Coded, model: VideoLanguageModel, rng: np.random.Generator) -> Document:
    questions = list(video.answers)
    turns = []
    for place in rng.permutation(len(questions)):
        turns += [Turn("user", questions[place]), Turn("assistant", video.answers[questions[place]])]
    return conversation(model.tokenizer, model.prompt, turns, shown(form, video, model.vocabulary))


@torch.no_grad()
def answered(form: str, model: VideoLanguageModel, video: Coded, question: str) -> str:
    """The likeliest of the answers that a question has."""
    seen = shown(form, video, model.vocabulary)
    documents = [
        conversation(model.tokenizer, model.prompt, [Turn("user", question), Turn("assistant", answer)], seen)
        for answer in ANSWERS[question]
    ]
    losses = [_loss(model, document) for document in documents]
    return ANSWERS[question][int(np.argmin(losses))]


def _loss(model: VideoLanguageModel, document: Document) -> float:
    """Nats of all that is to be learned of a document."""
    batch = pack([[document]], model.vocabulary, 0)
    return float(model(batch)) * int(document.is_target.sum())
