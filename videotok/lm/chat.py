"""How a conversation is written down for a language model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

VIDEO = "<video>"
"""Where a video stands in a turn's text; before all else in the first turn where it is not named."""


class Turn(NamedTuple):
    """What one side says."""

    role: Literal["user", "assistant"]
    text: str


class Piece(NamedTuple):
    """Text, the place of the video or the end of the sequence, and whether a model learns to write it."""

    kind: Literal["text", "video", "end"]
    is_target: bool
    text: str = ""


@dataclass(frozen=True)
class Prompt:
    """Fixed words around each turn.

    begin + (before_user + question + after_user + before_answer + answer + after_answer + end of sequence) * turns
    """

    begin: str = ""
    before_user: str = "USER: "
    after_user: str = "\nASSISTANT:"
    before_answer: str = " "
    after_answer: str = ""
    video_end: str = "\n"
    """Between a video that was put first and the text after it."""
    stop: str | None = None
    """An answer ends before this, if not at the end of the sequence."""

    @classmethod
    def published(cls) -> "Prompt":
        """The one Video-LaVIT's understanding model was embedded_tokenizers with."""
        return cls(
            begin=(
                "A chat between a curious user and an artificial intelligence assistant. "
                "The assistant gives helpful, detailed, and polite answers to the user's questions. "
            ),
            after_user=" ASSISTANT:",
            after_answer=" \\n ",
            stop="\\n",
        )

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def pieces(self, turns: Sequence[Turn], has_video: bool, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
        """A conversation as pieces; one that ends with the user is ready to be answered."""
        del tokenizer
        found = [Piece("text", False, self.begin)]
        for turn in placed(turns, has_video, self.video_end):
            if turn.role == "user":
                found.append(Piece("text", False, self.before_user + turn.text + self.after_user))
            else:
                found += [Piece("text", True, self.before_answer + turn.text + self.after_answer), Piece("end", True)]
        return split(found)


@dataclass(frozen=True)
class ChatTemplate:
    """The model's own way, which its tokenizer brings along."""

    video_end: str = "\n"
    stop: str | None = None

    def pieces(self, turns: Sequence[Turn], has_video: bool, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
        """As `Prompt.pieces`.

        Raises:
            ValueError: the template writes earlier turns another way once a later one is there.
        """
        messages = [{"role": turn.role, "content": turn.text} for turn in placed(turns, has_video, self.video_end)]
        found, done = [], ""
        for count, message in enumerate(messages, 1):
            asks = message["role"] == "user"
            text = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=asks)
            if not isinstance(text, str) or not text.startswith(done):
                raise ValueError(
                    f"the chat template writes turn {count} over what stood before it; use one question a conversation"
                )
            found.append(Piece("text", not asks, text[len(done) :]))
            done = text
        return split(found)


def placed(turns: Sequence[Turn], has_video: bool, video_end: str) -> list[Turn]:
    """Turns with the place of the video named in one of them.

    Raises:
        ValueError: the video is named more than once, or there is none.
    """
    named = sum(turn.text.count(VIDEO) for turn in turns)
    if named > int(has_video):
        raise ValueError(f"{VIDEO} stands {named} times in a conversation with {int(has_video)} video")
    if has_video and not named and turns:
        return [Turn(turns[0].role, VIDEO + video_end + turns[0].text), *turns[1:]]
    return list(turns)


def split(pieces: list[Piece]) -> list[Piece]:
    """Pieces cut where the video stands, without empty ones."""
    found = []
    for piece in pieces:
        before, mark, after = piece.text.partition(VIDEO)
        parts = [piece._replace(text=before), Piece("video", False), piece._replace(text=after)] if mark else [piece]
        found += [part for part in parts if part.kind != "text" or part.text]
    return found
