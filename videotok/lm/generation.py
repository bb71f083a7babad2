"""Answers to questions about a video, streamed as text while they are generated."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from videotok.errors import TokensError
from videotok.lm.chat import Turn
from videotok.lm.data import EncodedVideo
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import VideoInput, conversation_document, pack


class TextOnlyProcessor(LogitsProcessor):
    """Forbid all ids but those of text."""

    def __init__(self, text_size: int) -> None:
        self.text_size = text_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, ids] with those of video ids at minus infinity."""
        scores[:, self.text_size :] = float("-inf")
        return scores


class AnswerStreamer(BaseStreamer):
    """Pass on generated text as soon as no later token can change it.

    Args:
        model: whose tokenizer and prompt the answer is read with.
        on_text: called with every new part of the text.
    """

    def __init__(self, model: VideoLanguageModel, on_text: Callable[[str], None]) -> None:
        self.tokenizer, self.stop, self.on_text = model.tokenizer, model.prompt.stop, on_text
        self.ids: list[int] = []
        self.streamed = 0
        """Characters passed on so far."""

    def put(self, value: Tensor) -> None:
        """Take the next generated id, int64 [1]; the prompt, [1, n], is ignored."""
        if value.ndim > 1:
            return
        self.ids += value.tolist()
        self._stream(is_final=False)

    def end(self) -> None:
        """Pass on what is left."""
        self._stream(is_final=True)

    @property
    def text(self) -> str:
        """The text so far, up to the prompt's stop text."""
        text = self._decoded()
        return text.split(self.stop)[0] if self.stop else text

    @property
    def is_stopped(self) -> bool:
        """Whether the prompt's stop text was generated."""
        return self.stop is not None and self.stop in self._decoded()

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _stream(self, is_final: bool) -> None:
        text = self.text
        end = len(text)
        if not is_final:
            # keep back what may be the beginning of the stop text, and an incomplete UTF-8 character
            end -= max(len(self.stop or "") - 1, 0)
            if text.endswith("\ufffd"):
                end = min(end, len(text.rstrip("\ufffd")))
        if end > self.streamed:
            self.on_text(text[self.streamed : end])
            self.streamed = end


@torch.no_grad()
def answer(
    model: VideoLanguageModel,
    question: str,
    video: EncodedVideo | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str], None] = lambda text: None,
) -> str:
    """Return the answer to a question, about a video or without one.

    Args:
        model: the language model.
        question: plain text.
        video: its tokens, and its features where the model reads them.
        max_new_tokens: length of the answer at most.
        temperature: 0: the most likely token each time; above 0: sampled, the same for the same `seed`.
        seed: of the sampling.
        on_text: called with every new part of the answer while it is generated.

    Raises:
        TokensError: the tokens were made with other weights than the model was trained on, or do not fit its
            vocabulary; or video and question together are longer than the model can read.
    """
    document = conversation_document(model.tokenizer, model.prompt, [Turn("user", question)], model_input(model, video))
    limit = getattr(model.model.config, "max_position_embeddings", None)
    if limit is not None and len(document) >= limit:
        raise TokensError(
            f"question and video take {len(document)} tokens, this language model reads {limit} with its answer; ask a "
            "shorter question"
        )
    batch = pack([[document]], model.vocabulary, model.padding_id).to(model.device)
    streamer = AnswerStreamer(model, on_text)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens if limit is None else min(max_new_tokens, limit - len(document)),
        eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=model.tokenizer.pad_token_id or model.tokenizer.eos_token_id,
        **sampling,
    )
    torch.manual_seed(seed)
    model.model.generate(  # type: ignore[operator]
        inputs_embeds=model.embed(batch.ids, batch.features),
        attention_mask=torch.ones_like(batch.ids),
        generation_config=config,
        logits_processor=LogitsProcessorList([TextOnlyProcessor(model.vocabulary.text_size)]),
        stopping_criteria=[lambda ids, scores: torch.full((len(ids),), streamer.is_stopped, device=ids.device)],
        streamer=streamer,
    )
    return streamer.text.strip()


def model_input(model: VideoLanguageModel, video: EncodedVideo | None) -> VideoInput | None:
    """Return a video as this model reads it: its number of clips and motion quantizers, its kinds of features.

    Raises:
        TokensError: the tokens were made with other weights.
    """
    if video is None:
        return None
    settings, tokens = model.settings, video.tokens
    settings.check(tokens)
    if tokens.num_motion_quantizers > settings.motion_quantizers:
        tokens = tokens.first_quantizers(settings.motion_quantizers)
    features = [{kind: row[kind] for kind in model.feature_kinds} for row in video.features or ()]
    clips = settings.question_clips(tokens)
    return VideoInput.from_tokens(
        model.vocabulary,
        tokens,
        clips,
        keyframes_only=settings.keyframes_only,
        features=features if model.feature_kinds and features else None,
        whole=settings.whole_clips(clips),
    )
