"""Tiny language models, each of which reads the same videos in another form."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from videotok.lm.chat import Prompt, Turn
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.motion_questions.encoded_videos import EncodedVideo
from videotok.lm.motion_questions.scenes import ANSWERS
from videotok.lm.packing import Document, VideoInput, conversation_document, pack
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embedding_table, extend
from videotok.lm.train import Plan, train
from videotok.tokens import VideoTokens
from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

FORMS = ("keyframe", "keyframes", "more frames", "motion ids", "continuous motion", "raw field")
"""The first keyframe's ids; the ids of every clip's keyframe; between these, at least as many ids of further frames as
motion takes; behind the keyframes, the first clip's motion as ids, as the encoder's latents before quantization, or as
the codec's field."""
WIDTH, LAYERS, ROWS = 96, 2, 32
"""Of the model, and documents per training step."""
PROMPT = Prompt(before_user="", after_user="?", before_answer=" ", video_end="")


def video_input(form: str, video: EncodedVideo, vocabulary: Vocabulary, *, with_keyframes: bool = True) -> VideoInput:
    """Return a video in one of the forms, with or without its keyframes."""
    quantizers = min(vocabulary.motion_quantizers, video.tokens.num_motion_quantizers)
    tokens = video.tokens.first_quantizers(quantizers)
    no_ids = torch.zeros(0, dtype=torch.int64)
    if form in ("keyframe", "keyframes"):
        if not with_keyframes:
            return VideoInput(no_ids)
        clips = [0] if form == "keyframe" else None
        return VideoInput.from_tokens(vocabulary, tokens, clips, keyframes_only=True)
    if form == "more frames":
        return VideoInput(torch.cat(_frame_ids(video, tokens, vocabulary, with_keyframes)))
    vectors = {"continuous motion": video.latents, "raw field": video.raw_field}.get(form)
    features = None if vectors is None else [{"motion": vectors}]
    keyframes = VideoInput.from_tokens(vocabulary, tokens, keyframes_only=True).ids if with_keyframes else no_ids
    first = VideoInput.from_tokens(vocabulary, tokens, [0], features=features)
    # motion comes after all keyframes, so that the question is always at the same distance from it
    motion = first.ids[int((first.ids == vocabulary.motion_begin).nonzero()[0, 0]) :]
    return VideoInput(torch.cat([keyframes, motion]), first.features)


def _frame_ids(
    video: EncodedVideo, tokens: VideoTokens, vocabulary: Vocabulary, with_keyframes: bool
) -> list[torch.Tensor]:
    """Return the ids of all frames in the order of time; without keyframes, those of further frames alone."""
    if video.further_frames is None:
        raise ValueError("the form 'more frames' of a video that was encoded without further frames")
    between = VideoInput.from_tokens(vocabulary, video.further_frames, keyframes_only=True).ids
    if not with_keyframes:
        return [between]
    first, others = (
        VideoInput.from_tokens(vocabulary, tokens, clips, keyframes_only=True).ids
        for clips in ([0], range(1, tokens.num_clips))
    )
    return [first, between, others]


def new_model(
    form: str, tokenizer: "VideoTokenizer", sample: EncodedVideo, quantizers: int, seed: int
) -> VideoLanguageModel:
    """Return an untrained model for one of the forms; parts that several forms share start with equal weights.

    `sample` is any video, for the width of its features.
    """
    torch.manual_seed(seed)
    text = tiny_tokenizer([f"{question}? {answer}" for question, answers in ANSWERS.items() for answer in answers])
    model = tiny_llama(len(text), width=WIDTH, layers=LAYERS)
    vocabulary = extend(text, model, Codebooks.from_tokenizer(tokenizer, motion_quantizers=quantizers))
    # embeddings of video ids stay as the codebooks set them: each id is too rare to be learned, and would only help to
    # recognize the training videos
    table = embedding_table(model)
    is_text = (torch.arange(len(table)) < vocabulary.text_size)[:, None]
    table.register_hook(lambda gradient: gradient * is_text)
    vectors = {"continuous motion": sample.latents, "raw field": sample.raw_field}.get(form)
    features = {} if vectors is None else {"motion": vectors.shape[1]}
    return VideoLanguageModel(model, text, vocabulary, PROMPT, VideoSettings("12", quantizers), features)


def train_model(
    form: str,
    tokenizer: "VideoTokenizer",
    videos: Sequence[EncodedVideo],
    out: Path,
    *,
    steps: int,
    quantizers: int,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
) -> VideoLanguageModel:
    """Return a model that was trained to answer about videos in one form; an earlier run in `out` is resumed."""
    model = new_model(form, tokenizer, videos[0], quantizers, seed)
    rng = np.random.default_rng(seed)
    documents = [document for video in videos for document in training_documents(form, video, model, rng)]
    plan = Plan(
        steps,
        ROWS,
        learning_rate=3e-3,
        warmup_steps=steps // 20,
        seed=seed,
        save_every=max(steps // 4, 1),
        row_length=max(map(len, documents)),
    )
    train(model, documents, [], plan, out, resume=True, report=report)
    return model


def training_documents(
    form: str, video: EncodedVideo, model: VideoLanguageModel, rng: np.random.Generator
) -> list[Document]:
    """Return one document per question, so that no answer stands before another question.

    Half of the documents, by chance, lack their keyframes: among a hundred visual ids motion is learned late. Further
    frames stand in the place of motion and stay.
    """
    documents = []
    for question, answer in video.answers.items():
        shown = video_input(form, video, model.vocabulary, with_keyframes=bool(rng.integers(2)))
        documents.append(_document(model, shown, question, answer))
    return documents


@torch.no_grad()
def predict_answer(form: str, model: VideoLanguageModel, video: EncodedVideo, question: str) -> str:
    """Return the most likely of a question's possible answers."""
    shown = video_input(form, video, model.vocabulary)
    losses = []
    for answer in ANSWERS[question]:
        document = _document(model, shown, question, answer)
        batch = pack([[document]], model.vocabulary, model.padding_id)
        losses.append(float(model(batch)) * int(document.is_target.sum()))
    return ANSWERS[question][int(np.argmin(losses))]


def _document(model: VideoLanguageModel, video: VideoInput, question: str, answer: str) -> Document:
    turns = [Turn("user", question), Turn("assistant", answer)]
    return conversation_document(model.tokenizer, model.prompt, turns, video)
