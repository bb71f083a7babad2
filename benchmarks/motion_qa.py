"""Does motion matter? `python -m benchmarks.motion_qa PHOTOS --still VIDEOS --moving VIDEOS --out results/motion_qa`.

Videos of known motion (photographs and footage under a virtual camera, cut-outs that move, footage that runs forwards
or backwards) are encoded with x264 by ordinary presets and read by their own motion vectors. Tiny language models of
one size, from scratch, learn to answer questions about them. Each reads the same videos in another form, and is tested
on videos made of other photographs and other recordings.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.motion_question_models import FORMS, predict_answer, train_model, video_input
from videotok.io_utils import write_json
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.encoded_videos import (
    TOKENS_PER_KEYFRAME,
    EncodedVideo,
    count_answers,
    encode_videos,
)
from videotok.lm.motion_questions.footage import Split
from videotok.lm.motion_questions.labeled_videos import SourceFolders, labeled_videos
from videotok.lm.motion_questions.scenes import ANSWERS
from videotok.pipeline import VideoTokenizer

console = Console(stderr=True)
TRAIN_VARIANTS = tuple(range(8))
"""Of each training video: all four mirrorings, each forwards and with time reversed."""


@dataclass
class Score:
    """Correct answers among the questions of one kind."""

    correct: int = 0
    questions: int = 0


Row = dict[str, Score]
"""Question -> score, of one form."""


def main() -> None:
    """Make the videos, train and test a model for each form, and print the table."""
    options = _parser().parse_args()
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    train_videos = _encoded_videos(options, tokenizer, "train", options.train, TRAIN_VARIANTS)
    test_videos = _encoded_videos(options, tokenizer, "test", options.test, (0,))
    settings = {
        "videos": {"train": options.train, "test": options.test, "variants": len(TRAIN_VARIANTS)},
        "steps": options.steps,
        "motion_quantizers": options.motion_quantizers,
        "seed": options.seed,
        "answers": count_answers(test_videos),
    }
    rows: dict[str, Row] = {}
    mean_ids: dict[str, float] = {}
    for form in options.forms:
        model = train_model(
            form,
            tokenizer,
            train_videos,
            options.out / form.replace(" ", "_"),
            steps=options.steps,
            quantizers=options.motion_quantizers,
            seed=options.seed,
            report=_loss_printer(form, options.steps),
        )
        rows[form] = evaluate(form, model, test_videos)
        lengths = [len(video_input(form, video, model.vocabulary).ids) for video in test_videos]
        mean_ids[form] = round(sum(lengths) / len(lengths), 1)
        options.out.mkdir(parents=True, exist_ok=True)
        plain_rows = {name: {question: asdict(score) for question, score in row.items()} for name, row in rows.items()}
        write_json(options.out / "motion_qa.json", settings | {"mean_ids": mean_ids, "rows": plain_rows})
        Console().print(result_table(rows, mean_ids))


def _encoded_videos(
    options: argparse.Namespace, tokenizer: VideoTokenizer, split: Split, count: int, variants: Sequence[int]
) -> list[EncodedVideo]:
    sources = SourceFolders(options.photos, options.still, options.moving)
    with_further_frames = "more frames" in options.forms
    return list(
        encode_videos(
            labeled_videos(sources, options.cache, split, count, with_further_frames=with_further_frames),
            tokenizer,
            options.cache,
            split,
            variants=variants,
            tokens_per_keyframe=TOKENS_PER_KEYFRAME,
            with_raw_field="raw field" in options.forms,
            with_further_frames=with_further_frames,
            on_progress=_progress_printer(f"{split} videos", count),
        )
    )


def evaluate(form: str, model: VideoLanguageModel, videos: Sequence[EncodedVideo]) -> Row:
    """Return the score of each question over all videos."""
    row: Row = {}
    for video in videos:
        for question, answer in video.answers.items():
            score = row.setdefault(question, Score())
            score.correct += predict_answer(form, model, video, question) == answer
            score.questions += 1
    return row


def result_table(rows: dict[str, Row], mean_ids: dict[str, float]) -> Table:
    """Return the percentage of correct answers by question and form. Chance is one over the number of answers.

    The last row is the mean number of ids of a video in each form.
    """
    table = Table("question", "chance", *rows, box=None)
    for question, answers in ANSWERS.items():
        scores = [row[question] for row in rows.values() if question in row]
        if scores:
            table.add_row(question, f"{100 / len(answers):.0f}", *map(_percent, scores))
    first = next(iter(rows.values()))
    expected = sum(score.questions / len(ANSWERS[question]) for question, score in first.items())
    chance = expected / sum(score.questions for score in first.values())
    totals = [
        Score(sum(score.correct for score in row.values()), sum(score.questions for score in row.values()))
        for row in rows.values()
    ]
    table.add_row("all", f"{100 * chance:.0f}", *map(_percent, totals))
    table.add_row("ids of a video", "", *(f"{mean_ids[form]:.0f}" for form in rows))
    return table


def _percent(score: Score) -> str:
    """Return the percentage with half the width of its 95 % interval (normal approximation)."""
    share, count = score.correct / score.questions, score.questions
    return f"{100 * share:.1f} ±{196 * math.sqrt(max(share * (1 - share), 0.25 / count) / count):.0f}"


def _progress_printer(name: str, count: int) -> Callable[[int], None]:
    def on_progress(number: int) -> None:
        if number % 20 == 0 or number == count:
            console.print(f"{name}: {number} of {count}", highlight=False)

    return on_progress


def _loss_printer(form: str, steps: int) -> Callable[[int, dict[str, float]], None]:
    losses: list[float] = []

    def report(step: int, figures: dict[str, float]) -> None:
        losses.append(figures["loss"])
        if step % 25 == 0 or step == steps:
            recent = losses[-25:]
            console.print(f"{form}: step {step} of {steps}, loss {sum(recent) / len(recent):.3f}", highlight=False)

    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--still", type=Path, required=True, help="folder of videos whose camera stands still")
    parser.add_argument("--moving", type=Path, required=True, help="folder of videos whose camera moves")
    parser.add_argument("--out", type=Path, default=Path("results/motion_qa"), help="folder of the table and the runs")
    parser.add_argument("--cache", type=Path, default=Path("cache/motion_qa"), help="folder of videos and their ids")
    parser.add_argument("--train", type=int, default=400, help="training videos; each in eight variants")
    parser.add_argument("--test", type=int, default=180, help="test videos")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of each form, 32 questions each")
    parser.add_argument("--motion-quantizers", type=int, default=1, help="residual quantizers of motion ids")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="rows of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="folder or hub id of video weights; default: the shipped ones")
    return parser


if __name__ == "__main__":
    main()
