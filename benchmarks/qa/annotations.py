"""Questions and answers of ActivityNet-QA (Yu et al., arXiv 1906.02467), and the videos that belong to them.

The annotations are published as two JSON files a split: `<split>_q.json` and `<split>_a.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

QUESTION_TYPES = ("motion", "spatial", "temporal", "yes/no", "colour", "object", "location", "number", "other")
"""Names of the question types 0 to 8; types 3 to 8 together are called Free."""
SPLITS = ("train", "val", "test")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")


@dataclass(frozen=True)
class Question:
    """A question and its reference answer."""

    question_id: str
    video_name: str
    text: str
    answer: str
    type: int
    """0 to 8, see `QUESTION_TYPES`."""


def load_questions(folder: Path, split: str) -> list[Question]:
    """Return all questions of a split, in the order of its file.

    Raises:
        SystemExit: the files do not exist, or a question has no answer.
    """
    questions, answers = _read_json(folder / f"{split}_q.json"), _read_json(folder / f"{split}_a.json")
    answer_of = {row["question_id"]: row for row in answers}
    unanswered = [row["question_id"] for row in questions if row["question_id"] not in answer_of]
    if unanswered:
        raise SystemExit(
            f"{folder / f'{split}_a.json'} has no answer for {len(unanswered)} questions, such as {unanswered[0]}"
        )
    return [
        Question(
            question_id=row["question_id"],
            video_name=row["video_name"],
            text=row["question"],
            answer=str(answer_of[row["question_id"]]["answer"]),
            type=int(answer_of[row["question_id"]]["type"]),
        )
        for row in questions
    ]


def _read_json(path: Path) -> list[dict]:
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; --annotations is the folder of ActivityNet-QA's six JSON files")
    return json.loads(path.read_text(encoding="utf-8"))


def find_videos(folder: Path, names: set[str]) -> dict[str, Path]:
    """Return the file of each named video; names without a file are left out.

    A video lies anywhere below `folder` as `v_NAME.mp4`, .mkv or .webm; other text may stand before `v_`.

    Raises:
        SystemExit: the folder does not exist.
    """
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder; --videos is the folder of ActivityNet's videos")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            # names may contain `_` and `-`, so try the text after each `v_` and take the first that is a known name
            parts = path.stem.split("v_")
            candidates = ("v_".join(parts[start:]) for start in range(1, len(parts)))
            for name in candidates:
                if name in names:
                    found.setdefault(name, path)
    return found
