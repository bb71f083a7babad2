"""The annotations of ActivityNet-QA (Yu et al., arXiv 1906.02467), as they are published: two JSON files a split"""

import json
from dataclasses import dataclass
from pathlib import Path

TYPES = (
    "motion",
    "spatial",
    "temporal",
    "yes/no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)
"""Names of the types 0 to 8; 3 to 8 are together called Free."""
SPLITS = ("train", "val", "test")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")


@dataclass(frozen=True)
class Question:
    """A question, and its one right answer."""

    question_id: str
    video_name: str
    text: str
    answer: str
    type: int
    """0 to 8, see `TYPES`."""


def load(folder: Path, split: str) -> list[Question]:
    """All questions of a split, in the order of its file.

    Raises:
        SystemExit: the files are not there, or a question has no answer.
    """
    rows = []
    for kind in ("q", "a"):
        path = folder / f"{split}_{kind}.json"
        if not path.is_file():
            raise SystemExit(f"{path} does not exist; --annotations is the folder of ActivityNet-QA's six JSON files")
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    answers = {row["question_id"]: row for row in rows[1]}
    missing = [row["question_id"] for row in rows[0] if row["question_id"] not in answers]
    if missing:
        raise SystemExit(
            f"{folder / f'{split}_a.json'} has no answer for {len(missing)} questions, {missing[0]} for one"
        )
    return [
        Question(
            row["question_id"],
            row["video_name"],
            row["question"],
            str(answers[row["question_id"]]["answer"]),
            int(answers[row["question_id"]]["type"]),
        )
        for row in rows[0]
    ]


def videos(folder: Path, names: set[str]) -> dict[str, Path]:
    """Where each video lies, `v_NAME.mp4`, .mkv or .webm anywhere below `folder`, also with something before `v_`;
    those that are not there are left out.

    Raises:
        SystemExit: the folder does not exist.
    """
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder; --videos is where the videos of ActivityNet lie")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            # ids may hold `_` and `-`, so that the name is what follows the first `v_` that gives a known one
            parts = path.stem.split("v_")
            for start in range(1, len(parts)):
                name = "v_".join(parts[start:])
                if name in names:
                    found.setdefault(name, path)
    return found
