"""A question about a video, answered as the answer is written."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from videotok.lm.chat import Turn
from videotok.lm.data import Kept
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import VideoInput, conversation, evenly, pack


class TextOnly(LogitsProcessor):
    """An answer is text: ids of video are never chosen."""

    def __init__(self, text_size: int) -> None:
        self.text_size = text_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.text_size :] = float("-inf")
        return scores


class Written(BaseStreamer):
    """Hands on text as soon as no later token can change it."""

    def __init__(self, model: VideoLanguageModel, show: Callable[[str], None]) -> None:
        self.model, self.show = model, show
        self.ids: list[int] = []
        self.shown = 0

    def put(self, value: Tensor) -> None:
        if value.ndim > 1:  # the prompt, which embeddings stand for
            return
        self.ids += value.tolist()
        self._show(final=False)

    def end(self) -> None:
        self._show(final=True)

    @property
    def text(self) -> str:
        """All that was written, up to where the prompt says that an answer ends."""
        text = str(self.model.tokenizer.decode(self.ids, skip_special_tokens=True))
        return text.split(self.model.prompt.stop)[0] if self.model.prompt.stop else text

    @property
    def stopped(self) -> bool:
        stop = self.model.prompt.stop
        return stop is not None and stop in self.model.tokenizer.decode(self.ids, skip_special_tokens=True)

    def _show(self, final: bool) -> None:
        text = self.text
        # half a letter of UTF-8, and what may be the beginning of the stop, wait
        held = 0 if final else max(len(self.model.prompt.stop or "") - 1, 0)
        until = len(text) - held
        if not final and text.endswith("\ufffd"):
            until = min(until, len(text.rstrip("\ufffd")))
        if until > self.shown:
            self.show(text[self.shown : until])
            self.shown = until


@torch.no_grad()
def answer(
    model: VideoLanguageModel,
    question: str,
    video: Kept | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    show: Callable[[str], None] = lambda text: None,
) -> str:
    """Answers a question about a video, or one without a video.

    Args:
        model: the language model.
        question: plain text.
        video: its tokens, and its features where the model reads them.
        max_new_tokens: the longest answer.
        temperature: 0: the likeliest token each time; above: drawn, the same for the same `seed`.
        show: told every new part of the answer as it is written.

    Raises:
        TokensError: tokens of other weights than the model knows, or of another vocabulary.
    """
    document = conversation(model.tokenizer, model.prompt, [Turn("user", question)], seen(model, video))
    batch = pack([[document]], model.vocabulary, model.padding).to(model.device)
    written = Written(model, show)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=model.tokenizer.pad_token_id or model.tokenizer.eos_token_id,
        **sampling,
    )
    torch.manual_seed(seed)
    model.model.generate(  # type: ignore[operator]
        inputs_embeds=model.embed(batch.ids, batch.features),
        attention_mask=torch.ones_like(batch.ids),
        generation_config=config,
        logits_processor=LogitsProcessorList([TextOnly(model.vocabulary.text_size)]),
        stopping_criteria=[lambda ids, scores: torch.full((len(ids),), written.stopped, device=ids.device)],
        streamer=written,
    )
    return written.text.strip()


def seen(model: VideoLanguageModel, video: Kept | None) -> VideoInput | None:
    """A video as this model reads it: its own clips, levels and kinds of features.

    Raises:
        TokensError: made with other weights, or without the features that the model reads.
    """
    if video is None:
        return None
    settings, tokens = model.settings, video.tokens
    settings.check(tokens)
    if tokens.num_motion_quantizers > settings.motion_quantizers:
        tokens = tokens.first_quantizers(settings.motion_quantizers)
    features = None
    if model.feature_kinds:
        features = [{kind: row[kind] for kind in model.feature_kinds} for row in video.features or ()]
    clips = evenly(tokens.num_clips, settings.max_clips)
    return VideoInput.of(
        model.vocabulary, tokens, clips, keyframes_only=settings.keyframes_only, features=features or None
    )
