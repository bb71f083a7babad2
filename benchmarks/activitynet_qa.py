"""ActivityNet-QA: `python -m benchmarks.activitynet_qa --annotations DIR --videos DIR --answerer NAME --out results/`

Answers are written down one by one: a run that was killed goes on where it stopped, and asks no question twice. Videos
are tokenized once. docs/understanding.md says how to bring a model of your own.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.qa import judge as judging
from benchmarks.qa.annotations import SPLITS, Question, load, videos
from benchmarks.qa.answerers import Answerer, Options, answerer
from benchmarks.qa.chat import Chat, ChatError
from benchmarks.qa.journal import Journal
from benchmarks.qa.report import report
from benchmarks.qa.scores import by_type, exact
from benchmarks.qa.wups import wordnet_similarity, wups
from codec import MediaError, atomic_path

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns what is written to `OUT/<split>-<answerer>.json`."""
    options = _parser().parse_args(arguments)
    questions = load(options.annotations, options.split)[: options.limit]
    if options.only_there:
        questions = _with_video(questions, options)
    who = answerer(options.answerer, _options(options))
    name = f"{options.split}-{_plain(options.answerer)}"
    results = run(questions, who, options, options.out / f"{name}.jsonl")
    if options.judge:
        results |= judged(questions, results, options, options.out / f"{name}-judged.jsonl")
    with atomic_path(options.out / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    Console().print(report(results))
    return results


def run(questions: Sequence[Question], who: Answerer, options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Asks what was not asked yet, and scores all of it."""
    names = {question.video_name for question in questions}
    found = videos(options.videos, names) if options.videos else {}
    facts = {"split": options.split, **who.facts()}
    missing = sorted(names - found.keys()) if who.needs_video else []
    with Journal(path, facts) as journal, Progress(console=console) as progress:
        for question in progress.track(questions, description="questions"):
            video = found.get(question.video_name)
            if question.question_id in journal.rows or (who.needs_video and video is None):
                continue
            try:
                journal.add(question.question_id, {"answer": who.answer(question.text, video)})
            except MediaError as error:  # a broken video is one row, and not the end
                journal.add(question.question_id, {"answer": "", "error": str(error)})
            except ChatError as error:
                raise SystemExit(f"{error}; the same command goes on from here") from error
    predictions = {key: str(row["answer"]) for key, row in journal.rows.items()}
    asked = {question.question_id for question in questions}
    return {
        "split": options.split,
        "limit": options.limit,
        "answerer": who.facts(),
        "videos": len(names),
        "missing_videos": missing,
        "broken_videos": sorted({row["error"] for row in journal.rows.values() if "error" in row}),
        "unanswered": len(asked - predictions.keys()),
        "exact": exact(questions, predictions),
        "wups": _wups(questions, predictions),
        "predictions": {key: predictions[key] for key in sorted(asked & predictions.keys())},
    }


def judged(
    questions: Sequence[Question], results: dict[str, Any], options: argparse.Namespace, path: Path
) -> dict[str, Any]:
    """The judge's verdicts on answers that are there; kept apart from the exact score."""
    if not options.judge_model:
        raise SystemExit("--judge needs --judge-model, the name of the endpoint's model")
    chat = Chat(options.judge, options.judge_model, options.seed)
    predictions = results["predictions"]
    facts = judging.facts(chat) | {"split": options.split, "answerer": results["answerer"]}
    with Journal(path, facts) as journal, Progress(console=console) as progress:
        for question in progress.track(questions, description="verdicts"):
            key = question.question_id
            if key in journal.rows or key not in predictions:
                continue
            try:
                found = judging.judged(chat, question, predictions[key])
            except ChatError as error:
                raise SystemExit(f"{error}; the same command goes on from here") from error
            journal.add(key, {"right": found and found.is_right, "score": found and found.score})
    rows = [journal.rows.get(question.question_id, {}) for question in questions]
    return {
        "judge": judging.facts(chat),
        "unjudged": sum(row.get("score") is None for row in rows),
        "judged": {
            "accuracy": by_type(questions, np.array([float(row.get("right") or 0) for row in rows])),
            "score": by_type(questions, np.array([float(row.get("score") or 0) for row in rows])),
        },
    }


def _wups(questions: Sequence[Question], predictions: dict[str, str]) -> dict[str, float] | None:
    similarity = wordnet_similarity()
    if similarity is None:
        return None
    return {
        str(threshold): float(
            np.mean([wups(predictions.get(q.question_id, ""), q.answer, threshold, similarity) for q in questions])
        )
        for threshold in (0.9, 0.0)
    }


def _with_video(questions: list[Question], options: argparse.Namespace) -> list[Question]:
    if not options.videos:
        raise SystemExit("--only-there needs --videos")
    there = videos(options.videos, {question.video_name for question in questions})
    chosen = [question for question in questions if question.video_name in there]
    if not chosen:
        raise SystemExit(f"no video of the {options.split} split in {options.videos}; they are named v_ID.mp4")
    return chosen


def _options(options: argparse.Namespace) -> Options:
    return Options(
        train=lambda: load(options.annotations, "train"),
        cache=options.cache,
        model=options.model,
        video_model=options.video_model,
        url=options.url,
        show=options.show,
        seed=options.seed,
        instruction=options.instruction,
        inputs=options.inputs,
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--annotations", type=Path, required=True, help="folder of the six JSON files")
    parser.add_argument("--videos", type=Path, help="folder of videos, v_ID.mp4, .mkv or .webm")
    parser.add_argument("--answerer", default="blind", help="blind, text, lm, openai, or package.module:Class")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=int, help="ask the first so many questions")
    parser.add_argument("--only-there", action="store_true", help="ask only about videos that are there")
    parser.add_argument("--out", type=Path, default=Path("results/activitynet_qa"))
    parser.add_argument("--cache", type=Path, default=Path("cache/activitynet_qa"), help="folder of tokens")
    parser.add_argument("--model", help="folder of a language model (lm), name of the endpoint's model (openai)")
    parser.add_argument("--video-model", help="folder or hub id of other video weights than the shipped ones")
    choices = ("auto", "ids", "features")
    parser.add_argument(
        "--inputs", choices=choices, default="auto", help="keyframes as which (lm); auto: as embedded_tokenizers"
    )
    parser.add_argument("--instruction", default="", help="put behind each question (lm)")
    parser.add_argument("--url", help="endpoint that speaks OpenAI's chat completions, http://localhost:8000/v1")
    parser.add_argument("--show", choices=("frames", "tokens"), default="frames", help="what an endpoint is shown")
    parser.add_argument("--judge", metavar="URL", help="endpoint of a language model that judges the answers")
    parser.add_argument("--judge-model", help="its name")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
