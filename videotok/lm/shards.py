"""What a language model is trained on: .vtok files, a corpus in Parquet, conversations in JSONL."""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codec import ClipSpec
from videotok.errors import TokensError
from videotok.lm.prompt import Turn
from videotok.source import ModelIdentity, SourceFacts
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
    """Videos of a corpus, those cut off by the end of a shard together with their rest in the next one."""
    import pyarrow.parquet as pq

    facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "clips").glob("*.parquet")):
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    if rows and row["video_id"] != rows[0]["video_id"]:
                        yield _video(rows, facts, folder)
                        rows = []
                    rows.append(row)
    if rows:
        yield _video(rows, facts, folder)


def _video(rows: list[dict[str, Any]], facts: dict[str, Any], folder: Path) -> Sample:
    first, place = rows[0], f"{folder}: {rows[0]['video_id']}"
    fingerprint = facts["fingerprint"]
    spec = fingerprint["spec"]
    visual = [np.asarray(row["visual_ids"], np.int32) for row in rows]
    try:
        tokens = VideoTokens(
            spec=ClipSpec(spec["frames"], Fraction(str(spec["fps"])), tuple(spec["grid"])),
            source=SourceFacts(
                Path(first["path"]).name, 0, first["codec"], first["width"], first["height"], 0, None, None
            ),
            motion_source=first["motion_source"],
            models={part: ModelIdentity("corpus", fingerprint["weights"][part]) for part in ("keyframes", "motion")},
            codebooks=facts["codebooks"],
            visual_ids=np.concatenate(visual),
            visual_offsets=np.cumsum([0, *map(len, visual)], dtype=np.int64),
            keep_mask=np.array([row["keep_mask"] for row in rows], bool),
            motion_ids=np.array([row["motion_ids"] for row in rows], np.int32),
            camera_ids=np.array([row["camera_ids"] for row in rows], np.int32),
            num_frames=np.array([row["num_frames"] for row in rows], np.int32),
            pts_seconds=np.array([row["start_seconds"] for row in rows], np.float64),
            damaged=np.array([row["damaged"] for row in rows], bool),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise TokensError(f"{place} is not a video of this version's corpus: {error}") from error
    return Sample(place, tokens, caption=first.get("caption") or "")
