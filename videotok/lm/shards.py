"""What a language model is trained on: .vtok files, a corpus in Parquet, conversations in JSONL."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from videotok.errors import TokensError
from videotok.lm.prompt import Turn
from videotok.tokens import VideoTokens


class Sample(NamedTuple):
    """A video and what is said of it."""

    place: str
    """Where it stands, for messages: a file, or file:line."""
    video: Path | VideoTokens | None
    turns: tuple[Turn, ...] = ()
    """A conversation; without any, the video itself is to be learned, and what is written under it."""
    caption: str = ""


def samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Everything in `paths`, in order.

        FILE.vtok      one video
        FOLDER         the folder of a corpus (`videotok corpus encode`): its videos, with captions where there are any;
                       any other folder: all .vtok and .jsonl files below it
        FILE.jsonl     one JSON object a line; paths count from the file's folder, videos are .vtok or any video file:
                           {"video": "a.mp4", "question": "what is this", "answer": "a dog"}
                           {"video": "a.vtok", "turns": [{"role": "user", "text": "..."}, {"role": "assistant", ...}]}
                           {"video": "a.vtok", "caption": "a dog runs"}
                       without "video", text alone

    Raises:
        TokensError: nothing there, a line that is none of these, or a damaged file.
    """
    for path in paths:
        if path.suffix == ".vtok":
            yield Sample(str(path), path)
        elif path.suffix == ".jsonl" and path.is_file():
            yield from _lines(path)
        elif (path / "corpus.json").is_file():
            yield from _corpus(path)
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in (".vtok", ".jsonl"))
            if not found:
                raise TokensError(
                    f"{path} has no corpus.json, no .vtok and no .jsonl files; `videotok encode` makes some"
                )
            yield from samples(found)
        else:
            raise TokensError(f"cannot train on {path}: give a .vtok or .jsonl file, or a folder of them")


def _lines(path: Path) -> Iterator[Sample]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
            if "turns" in row:
                turns = tuple(Turn(turn["role"], str(turn["text"])) for turn in row["turns"])
            elif "question" in row:
                turns = (Turn("user", str(row["question"])), Turn("assistant", str(row["answer"])))
            else:
                turns = ()
            video = None if row.get("video") is None else path.parent / row["video"]
            caption = str(row.get("caption", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokensError(
                f"{place} is not {{video, question, answer}}, {{video, turns}} or {{video, caption}}: {error!r}"
            ) from error
        roles = [turn.role for turn in turns]
        if roles != ["user", "assistant"] * (len(roles) // 2) or not (turns or video):
            raise TokensError(f"{place} has turns {roles}; they must be user, assistant, user, assistant …")
        if video is not None and not video.is_file():
            raise TokensError(f"{place} names {video}, which does not exist")
        yield Sample(place, video, turns, caption)


def _corpus(folder: Path) -> Iterator[Sample]:
    """Videos of a corpus, in order of their names, with what is written under them."""
    from videotok.corpus.folder import CorpusFolder
    from videotok.corpus.ordered import ordered_videos
    from videotok.corpus.videos import video_tokens

    facts = CorpusFolder(folder).facts
    for rows in ordered_videos(folder):
        place = f"{folder}: {rows['video_id'][0].as_py()}"
        whole = rows["clips"][0].as_py()
        if rows.num_rows != whole:
            raise TokensError(
                f"{place} has {rows.num_rows} of its {whole} clips; finish it with the same `videotok corpus encode`"
            )
        try:
            tokens = video_tokens(rows, facts)
        except (KeyError, ValueError) as error:
            raise TokensError(f"{place} is not a video of this version's corpus: {error}") from error
        yield Sample(place, tokens, caption=rows["caption"][0].as_py() or "")
