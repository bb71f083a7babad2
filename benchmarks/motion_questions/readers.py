"""Tiny language models, each of which is shown the same videos in another form."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.motion_questions.coded import Coded
from benchmarks.motion_questions.scenes import ANSWERS
from videotok.lm.chat import Prompt, Turn
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.packing import Document, VideoInput, conversation, pack
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embeddings, extend
from videotok.lm.train import Plan, train
from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

FORMS = ("keyframe", "keyframes", "motion ids", "continuous motion", "raw field")
"""Rows of the table: the first keyframe's ids; those of every clip; behind them the first clip's motion as ids, as what
the encoder knows before it chooses ids, and as the codec's field itself."""
WIDTH, LAYERS, ROWS = 96, 2, 32
"""Of the model, and documents a training step."""
PROMPT = Prompt(before_user="", after_user="?", before_answer=" ", video_end="")


def shown(form: str, video: Coded, vocabulary: Vocabulary, *, keyframes: bool = True) -> VideoInput:
    """A video in one of the forms, or without its keyframes."""
    tokens = video.tokens.first_quantizers(min(vocabulary.motion_quantizers, video.tokens.num_motion_quantizers))
    if form in ("keyframe", "keyframes") and not keyframes:
        return VideoInput(torch.zeros(0, dtype=torch.int64))
    if form == "keyframe":
        return VideoInput.of(vocabulary, tokens, [0], keyframes_only=True)
    if form == "keyframes":
        return VideoInput.of(vocabulary, tokens, keyframes_only=True)
    vectors = {"continuous motion": video.latents, "raw field": video.field}.get(form)
    features = None if vectors is None else [{"motion": vectors}]
    pictures = (
        VideoInput.of(vocabulary, tokens, keyframes_only=True).ids if keyframes else torch.zeros(0, dtype=torch.int64)
    )
    first = VideoInput.of(vocabulary, tokens, [0], features=features)
    # behind both keyframes: as they take more or fewer ids, what stands before them lies now nearer, now farther
    motion = first.ids[int((first.ids == vocabulary.motion_begin).nonzero()[0, 0]) :]
    return VideoInput(torch.cat([pictures, motion]), first.features)


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
    found = {"continuous motion": some.latents, "raw field": some.field}.get(form)
    features = {} if found is None else {"motion": found.shape[1]}
    return VideoLanguageModel(model, text, vocabulary, PROMPT, VideoSettings("12", levels), features)


def embedded_tokenizers(
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
    documents = [lesson for video in videos for lesson in lessons(form, video, model, rng)]
    if model.feature_kinds:
        features = torch.cat([document.features["motion"].float() for document in documents[::50]])
        table = model.model.get_input_embeddings().weight
        model.projections["motion"].start(features, table[: model.vocabulary.text_size])  # type: ignore[operator]
    plan = Plan(
        steps,
        length=max(map(len, documents)),
        rows=ROWS,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        seed=seed,
        save_every=max(steps // 4, 1),
    )
    train(model, documents, [], plan, out, resume=True, report=report)
    return model.eval()


def lessons(form: str, video: Coded, model: VideoLanguageModel, rng: np.random.Generator) -> list[Document]:
    """A document a question: an answer never stands behind another one.

    Half of the documents, by chance, lack their keyframes: among a hundred ids of pictures a motion's are found late.
    """
    found = []
    for question, answer in video.answers.items():
        seen = shown(form, video, model.vocabulary, keyframes=bool(rng.integers(2)))
        found.append(_written(model, seen, question, answer))
    return found


@torch.no_grad()
def answered(form: str, model: VideoLanguageModel, video: Coded, question: str) -> str:
    """The likeliest of the answers that a question has."""
    seen = shown(form, video, model.vocabulary)
    losses = []
    for answer in ANSWERS[question]:
        document = _written(model, seen, question, answer)
        batch = pack([[document]], model.vocabulary, model.padding)
        losses.append(float(model(batch)) * int(document.is_target.sum()))
    return ANSWERS[question][int(np.argmin(losses))]


def _written(model: VideoLanguageModel, seen: VideoInput, question: str, answer: str) -> Document:
    turns = [Turn("user", question), Turn("assistant", answer)]
    return conversation(model.tokenizer, model.prompt, turns, seen)
