"""Conversations as text for a language model: turns, prompt formats and chat templates."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

VIDEO_MARK = "<video>"
"""Stands in a turn's text where the video goes. Without it the video goes before the first turn's text."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Segment:
    """A part of a formatted conversation: text, the video, or the end-of-sequence token."""

    kind: Literal["text", "video", "end"]
    is_target: bool
    """Whether a model is trained to predict it."""
    text: str = ""


@dataclass(frozen=True)
class Prompt:
    """A prompt format: fixed text around each turn.

    begin + (before_user + question + after_user + before_answer + answer + after_answer + end of sequence) * turns
    """

    begin: str = ""
    before_user: str = "USER: "
    after_user: str = "\nASSISTANT:"
    before_answer: str = " "
    after_answer: str = ""
    video_end: str = "\n"
    """Between a video without a `VIDEO_MARK` and the text after it."""
    stop: str | None = None
    """Text that ends an answer, besides the end of the sequence."""

    @classmethod
    def video_lavit(cls) -> "Prompt":
        """Return the format that Video-LaVIT's understanding model was trained with."""
        return cls(
            begin=(
                "A chat between a curious user and an artificial intelligence assistant. "
                "The assistant gives helpful, detailed, and polite answers to the user's questions. "
            ),
            after_user=" ASSISTANT:",
            after_answer=" \\n ",
            stop="\\n",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `Prompt(**values)` is equal."""
        return asdict(self)

    def segments(self, turns: Sequence[Turn], has_video: bool, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
        """Return a conversation in segments; after a last user turn the model's answer comes next.

        Raises:
            ValueError: the video is marked more than once, or is marked and there is none.
        """
        del tokenizer  # only chat templates need it
        segments = [Segment("text", False, self.begin)]
        for turn in _mark_video(turns, has_video, self.video_end):
            if turn.role == "user":
                segments.append(Segment("text", False, self.before_user + turn.text + self.after_user))
            else:
                answer = self.before_answer + turn.text + self.after_answer
                segments += [Segment("text", True, answer), Segment("end", True)]
        return _split_at_video(segments)


@dataclass(frozen=True)
class ChatTemplate:
    """The prompt format that a tokenizer's own chat template defines."""

    video_end: str = "\n"
    """Between a video without a `VIDEO_MARK` and the text after it."""
    stop: str | None = None
    """Text that ends an answer, besides the end of the sequence."""

    def segments(self, turns: Sequence[Turn], has_video: bool, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
        """Return a conversation in segments, as `Prompt.segments` does.

        Raises:
            ValueError: as there; or the template changes the text of earlier turns when a later one follows.
        """
        turns = _mark_video(turns, has_video, self.video_end)
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        segments, text_before = [], ""
        for count, message in enumerate(messages, 1):
            is_user = message["role"] == "user"
            text = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=is_user)
            if not isinstance(text, str) or not text.startswith(text_before):
                raise ValueError(
                    f"the chat template changes the text before turn {count}; use one question a conversation"
                )
            segments.append(Segment("text", not is_user, text[len(text_before) :]))
            text_before = text
        return _split_at_video(segments)


def _mark_video(turns: Sequence[Turn], has_video: bool, video_end: str) -> list[Turn]:
    """Return the turns with a `VIDEO_MARK` in one of them, if there is a video."""
    marks = sum(turn.text.count(VIDEO_MARK) for turn in turns)
    if marks > int(has_video):
        raise ValueError(f"{VIDEO_MARK} stands {marks} times in a conversation with {int(has_video)} video")
    if has_video and not marks and turns:
        return [replace(turns[0], text=VIDEO_MARK + video_end + turns[0].text), *turns[1:]]
    return list(turns)


def _split_at_video(segments: list[Segment]) -> list[Segment]:
    """Split the segment that holds the `VIDEO_MARK`, and leave out empty text."""
    parts: list[Segment] = []
    for segment in segments:
        before, mark, after = segment.text.partition(VIDEO_MARK)
        if mark:
            parts += [replace(segment, text=before), Segment("video", False), replace(segment, text=after)]
        else:
            parts.append(segment)
    return [part for part in parts if part.kind != "text" or part.text]
