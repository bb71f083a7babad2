"""Answers of a language model: questions about scenes of known motion, and about the camera in real footage."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videotok.inputs import VIDEO_SUFFIXES
from videotok.lm.data import EncodedVideo, TokenCache
from videotok.lm.generation import answer
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.camera_motion import MOVES, STANDS_STILL
from videotok.lm.motion_questions.encoded_videos import encode_videos
from videotok.lm.motion_questions.labeled_videos import SourceFolders, labeled_videos
from videotok.lm.motion_questions.real_motion import RealMotion, read_real_motion
from videotok.lm.motion_questions.scenes import CAMERA, ZOOM
from videotok.lm.motion_questions.wordings import FURTHER_HELD_OUT, HELD_OUT_QUESTIONS, QUESTIONS
from videotok.lm.recipe.material import MOVING, PHOTOS, STILL
from videotok.lm.recipe.second_stage import REAL_CLIPS, REAL_TEST_FILES, real_files
from videotok.pipeline import VideoTokenizer

Figures = dict[str, float]


def questions(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, for each question and for all: questions asked, and the share of right answers in four wordings.

    `as trained`: the first wording of each question; `others`: one of its other wordings that were trained on, in turn;
    `held out`, `further`: one of those that were not, near to those that were, and further from them.
    """
    sources = SourceFolders(options.data / PHOTOS, options.data / STILL, options.data / MOVING)
    videos = encode_videos(
        labeled_videos(sources, options.cache, "test", options.videos),
        tokenizer,
        options.cache,
        "test",
        tokens_per_keyframe=model.settings.tokens_per_keyframe or 64,
        with_raw_field=False,
    )
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for number, video in enumerate(videos):
        shown = EncodedVideo(video.tokens)
        for question, expected in video.answers.items():
            others, held_out = QUESTIONS[question][1:], HELD_OUT_QUESTIONS[question]
            further = FURTHER_HELD_OUT[question]
            wordings = {
                "as trained": question,
                "others": others[number % len(others)],
                "held out": held_out[number % len(held_out)],
                "further": further[number % len(further)],
            }
            for name, wording in wordings.items():
                found = answer(model, f"{wording}?", shown, max_new_tokens=12)
                right[question][name].append(found.strip().lower() == expected)
    rows = {question: _shares(columns) for question, columns in right.items()}
    total: dict[str, list[bool]] = defaultdict(list)
    for columns in right.values():
        for name, values in columns.items():
            total[name] += values
    return {**rows, "all": _shares(total)}


def _shares(columns: dict[str, list[bool]]) -> Figures:
    count = len(next(iter(columns.values())))
    return {"questions": count, **{name: round(float(np.mean(values)), 4) for name, values in columns.items()}}


@dataclass(frozen=True)
class RealAnswer:
    """One question about a window of real footage, and what was answered."""

    file: str
    start: int
    """First clip of the window."""
    clips: int
    question: str
    expected: str
    found: str
    speed: float
    """Of the camera's motion, in frame widths a second."""

    @property
    def is_right(self) -> bool:
        """Whether the answer is the expected one."""
        return self.found.strip().lower() == self.expected


def real_footage(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, for the test videos and for held-out recordings of the training data, the share of right answers.

    Windows of one, two and four clips whose camera's motion is clear (`CameraPath.answers`): the way it goes, and
    whether it moves. Held-out recordings: those with a moving camera, and as many others.
    """
    natural = [path for path in sorted(options.natural.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    held_out = real_files(options.data, "test", REAL_TEST_FILES)
    groups = {"test videos": (natural, 8), "held-out recordings": (held_out, REAL_CLIPS)}
    found = {}
    for name, (files, max_clips) in groups.items():
        motions = {file: read_real_motion(file, options.cache / "real", max_clips) for file in files}
        windows = {file: _clear_windows(motion) for file, motion in motions.items() if motion is not None}
        moving = [file for file, rows in windows.items() if any(answers[MOVES] == "yes" for _, _, answers in rows)]
        still = [file for file, rows in windows.items() if rows and file not in moving]
        chosen = [*moving, *(still if name == "test videos" else still[: len(moving)])]
        cache = TokenCache(options.cache / "real-tokens", tokenizer, model.settings, max_clips=max_clips)
        rows = [row for file in chosen for row in _ask_about(file, windows[file], motions[file], cache, model)]
        found[name] = {"videos": len(chosen), **_real_shares(rows), "answers": [vars(row) for row in rows]}
        print(name, {key: value for key, value in found[name].items() if key != "answers"}, flush=True)
    return found


def _clear_windows(motion: RealMotion) -> list[tuple[int, int, dict[str, str]]]:
    """Return the first clip, the clip after the last one, and the answers of each window that has any."""
    count, windows = len(motion.vectors), []
    for length in (1, 2, 4):
        for start in range(0, count - length + 1, length):
            if answers := motion.path(start, start + length).answers():
                windows.append((start, start + length, answers))
    return windows


def _ask_about(
    file: Path,
    windows: Sequence[tuple[int, int, dict[str, str]]],
    motion: RealMotion | None,
    cache: TokenCache,
    model: VideoLanguageModel,
) -> list[RealAnswer]:
    tokens, rows = cache.get(file).tokens, []
    for start, stop, answers in windows:
        shown = EncodedVideo(tokens.part(start, stop))
        assert motion is not None  # it has windows
        path = motion.path(start, stop).known()
        speed = float(np.abs(path.sum(axis=0)).max() / len(path) * float(tokens.spec.fps))
        for question in (CAMERA if CAMERA in answers else ZOOM, MOVES):
            found = answer(model, f"{question}?", shown, max_new_tokens=12)
            rows.append(RealAnswer(file.name, start, stop - start, question, answers[question], found, speed))
    return rows


def _real_shares(rows: Sequence[RealAnswer]) -> dict[str, Figures]:
    """Return questions, videos and shares of right answers with a 95 % interval, by what was asked and answered."""
    groups: dict[str, list[RealAnswer]] = defaultdict(list)
    for row in rows:
        if row.question == MOVES:
            groups["does the camera move"].append(row)
            continue
        groups[row.expected].append(row)
        groups["all ways"].append(row)
        groups["moving" if row.expected != STANDS_STILL else "still"].append(row)
        groups[f"{'moving' if row.expected != STANDS_STILL else 'still'}, {2 * row.clips} s"].append(row)
    return {name: _share_by_video(group) for name, group in sorted(groups.items())}


def _share_by_video(rows: Sequence[RealAnswer]) -> Figures:
    """Return the share of right answers; its interval by bootstrap over videos, whose windows are alike."""
    by_video: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_video[row.file].append(row.is_right)
    videos, rng = list(by_video.values()), np.random.default_rng(0)
    means = []
    for _ in range(2000):
        drawn = [value for index in rng.integers(len(videos), size=len(videos)) for value in videos[index]]
        means.append(np.mean(drawn))
    low, high = (float(value) for value in np.percentile(means, (2.5, 97.5)))
    right = float(np.mean([row.is_right for row in rows]))
    return {"questions": len(rows), "videos": len(videos), "right": right, "low": low, "high": high}
