"""ActivityNet-QA: `python -m benchmarks.activitynet_qa --annotations DIR --videos DIR --answerer NAME --out results/`.

Answers are written one by one: a run that was killed resumes where it stopped, and asks no question twice. Each video
is encoded once. docs/understanding.md says how to add a model of your own.
"""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from benchmarks.qa.annotations import SPLITS, Question, find_videos, load_questions
from benchmarks.qa.answerers import (
    Answerer,
    AnswererOptions,
    MediaQuestion,
    answer_all,
    make_answerer,
    shorten_answer,
)
from benchmarks.qa.chat import ChatEndpoint, ChatError
from benchmarks.qa.journal import Journal
from benchmarks.qa.protocols import JUDGE_PROMPT, OPENAI_URL, PROTOCOLS, Judge, load_judge_prompt
from benchmarks.qa.scores import exact_match, mean_wups, means_by_type, wordnet_similarity
from videotok.io_utils import write_json

console = Console(stderr=True)
JUDGED_BY_OWN, JUDGED, EXACT = "judged, judges differ", "video-chatgpt, zero-shot", "exact, fine-tuned"
PUBLISHED_ACCURACIES = (
    ("CoPE-7B", 64.1, JUDGED_BY_OWN),
    ("VideoLLaMA3-7B", 61.3, JUDGED_BY_OWN),
    ("VideoLLaMA3-2B", 58.2, JUDGED_BY_OWN),
    ("Qwen2-VL-7B", 57.4, JUDGED_BY_OWN),
    ("LLaVA-Video-7B", 56.5, JUDGED_BY_OWN),
    ("Video-LaVIT", 50.1, JUDGED),
    ("VideoChat2", 49.1, JUDGED),
    ("LLaMA-VID", 47.4, JUDGED),
    ("Video-LLaVA", 45.3, JUDGED),
    ("Video-ChatGPT", 35.2, JUDGED),
    ("FrozenBiLM", 43.2, EXACT),
    ("SiaSamRea", 39.8, EXACT),
    ("CoMVT", 38.8, EXACT),
    ("E-SA", 31.8, EXACT),
)
"""Percent on the test split, as stated in papers, and the protocol. Judges differ between papers: figures of two of
them are not comparable digit by digit."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line; return what is written to `OUT/<split>-<answerer>.json`."""
    options = _parser().parse_args(arguments)
    judge = _judge(options)
    questions = load_questions(options.annotations, options.split)[: options.limit]
    if options.only_available:
        questions = _questions_with_video(questions, options)
    answerer = make_answerer(options.answerer, _answerer_options(options))
    answerer_name = re.sub(r"[^\w.]+", "-", options.answerer)
    name = f"{options.split}-{answerer_name}" + (f"-{options.protocol}" if judge else "")
    results = answer_questions(questions, answerer, options, options.out / f"{name}.jsonl")
    if judge:
        results |= judge_answers(questions, results, judge, options.out / f"{name}-judged.jsonl")
    write_json(options.out / f"{name}.json", results)
    Console().print(report(results))
    return results


def answer_questions(
    questions: Sequence[Question], answerer: Answerer, options: argparse.Namespace, journal_path: Path
) -> dict[str, Any]:
    """Ask the questions that are not in the journal yet, and return the scores of all of them."""
    names = {question.video_name for question in questions}
    videos = find_videos(options.videos, names) if options.videos else {}
    # the protocol decides how a question is asked; journals without one are of `exact`
    protocol = {} if options.protocol == "exact" else {"protocol": options.protocol}
    description = {"split": options.split, **protocol, **answerer.describe()}
    with Journal(journal_path, description) as journal, Progress(console=console) as progress:
        asked_of = [MediaQuestion(one.question_id, one.text, videos.get(one.video_name)) for one in questions]
        answer_all(answerer, asked_of, journal, progress)
    predictions = {key: str(row["answer"]) for key, row in journal.rows.items()}
    short = {key: shorten_answer(answer) for key, answer in predictions.items()}
    asked = {question.question_id for question in questions}
    similarity = wordnet_similarity()
    return {
        "split": options.split,
        "protocol": options.protocol,
        "limit": options.limit,
        "answerer": answerer.describe(),
        "videos": len(names),
        "missing_videos": sorted(names - videos.keys()) if answerer.needs_video else [],
        "damaged_videos": sorted({row["error"] for row in journal.rows.values() if "error" in row}),
        "unanswered": len(asked - predictions.keys()),
        "exact": exact_match(questions, short),
        "wups": mean_wups(questions, short, similarity) if similarity else None,
        "predictions": {key: predictions[key] for key in sorted(asked & predictions.keys())},
    }


def judge_answers(
    questions: Sequence[Question], results: dict[str, Any], judge: Judge, journal_path: Path
) -> dict[str, Any]:
    """Have the answers judged that are not in the journal yet, and return the verdicts' means."""
    predictions = results["predictions"]
    description = judge.describe() | {"split": results["split"], "answerer": results["answerer"]}
    with Journal(journal_path, description) as journal, Progress(console=console) as progress:
        for question in progress.track(questions, description="verdicts"):
            key = question.question_id
            if key in journal.rows or key not in predictions:
                continue
            try:
                verdict = judge.rate(question, predictions[key])
            except ChatError as error:
                raise SystemExit(f"{error}; the same command resumes from here") from error
            journal.add(key, {"correct": verdict and verdict.is_correct, "score": verdict and verdict.score})
    rows = [journal.rows.get(question.question_id, {}) for question in questions]
    return {
        "judge": judge.describe(),
        "unjudged": sum(row.get("score") is None for row in rows),
        "judged": {
            "accuracy": means_by_type(questions, np.array([float(row.get("correct") or 0) for row in rows])),
            "score": means_by_type(questions, np.array([float(row.get("score") or 0) for row in rows])),
        },
    }


def report(results: dict[str, Any]) -> Group:
    """Return tables of the accuracy by type, and of the overall accuracy beside published figures."""
    by_type = Table("questions", "number", "exact %", "95 %", box=None)
    judged = results.get("judged")
    if judged:
        by_type.add_column("judged %")
        by_type.add_column("score 0 to 5")
    for name, row in results["exact"].items():
        cells = [
            name,
            f"{row['questions']}",
            f"{100 * row['accuracy']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        ]
        if judged:
            cells += [f"{100 * judged['accuracy'][name]['accuracy']:.1f}", f"{judged['score'][name]['accuracy']:.2f}"]
        by_type.add_row(*cells)
    overall = Table("model", "accuracy %", "protocol", box=None)
    ours = f"{results['answerer']['answerer']}, {results['split']}"
    overall.add_row(ours, f"{100 * results['exact']['all']['accuracy']:.1f}", "exact")
    if judged:
        accuracy = judged["accuracy"]["all"]["accuracy"]
        protocol = f"{results['protocol']}, judged by {results['judge']['judge']}"
        overall.add_row(ours, f"{100 * accuracy:.1f}", protocol)
    for name, accuracy, protocol in PUBLISHED_ACCURACIES:
        overall.add_row(name, f"{accuracy:.1f}", protocol)
    return Group(by_type, Text(), Text("\n".join(_notes(results))), Text(), overall)


def _notes(results: dict[str, Any]) -> list[str]:
    """Return what a reader of the figures must know."""
    notes = []
    wups = results["wups"]
    if wups is None:
        notes.append("WUPS left out: WordNet is not installed (pip install nltk; python -m nltk.downloader wordnet)")
    else:
        notes.append(f"WUPS@0.9 {100 * wups['0.9']:.1f}, WUPS@0.0 {100 * wups['0.0']:.1f}")
    if results["missing_videos"]:
        notes.append(
            f"{len(results['missing_videos'])} of {results['videos']} videos are missing: {results['unanswered']} "
            "questions have no answer and count as wrong; the results file names the videos"
        )
    if results["limit"]:
        notes.append(f"the first {results['limit']} questions only")
    if results.get("unjudged"):
        notes.append(f"{results['unjudged']} answers without a readable verdict: they count as wrong, with score 0")
    return notes


def _questions_with_video(questions: list[Question], options: argparse.Namespace) -> list[Question]:
    if not options.videos:
        raise SystemExit("--only-available needs --videos")
    videos = find_videos(options.videos, {question.video_name for question in questions})
    chosen = [question for question in questions if question.video_name in videos]
    if not chosen:
        raise SystemExit(f"no video of the {options.split} split in {options.videos}; files are named v_ID.mp4")
    return chosen


def _answerer_options(options: argparse.Namespace) -> AnswererOptions:
    return AnswererOptions(
        load_train_questions=lambda: load_questions(options.annotations, "train"),
        cache=options.cache,
        model=options.model,
        video_model=options.video_model,
        url=options.url,
        show=options.show,
        seed=options.seed,
        instruction=options.instruction,
        inputs=options.inputs,
        protocol=PROTOCOLS[options.protocol],
    )


def _judge(options: argparse.Namespace) -> Judge | None:
    """Return the judge of a judged protocol, None for exact matches.

    Raises:
        SystemExit: options of a judge without a judged protocol, or no key for OpenAI's own endpoint.
    """
    protocol = PROTOCOLS[options.protocol]
    given = [name for name in ("judge", "judge_model", "judge_prompt") if getattr(options, name)]
    if protocol.judge_model is None:
        if given:
            judged = " or ".join(name for name, other in PROTOCOLS.items() if other.is_judged)
            raise SystemExit(f"--{given[0].replace('_', '-')} needs a judged protocol: --protocol {judged}")
        return None
    if not options.judge and not os.environ.get("OPENAI_API_KEY"):
        raise SystemExit(
            f"--protocol {protocol.name} asks a judge at {OPENAI_URL}: set OPENAI_API_KEY, or give --judge, the URL of "
            "another endpoint that speaks OpenAI's chat completions"
        )
    endpoint = ChatEndpoint(options.judge or OPENAI_URL, options.judge_model or protocol.judge_model, options.seed)
    user, system = load_judge_prompt(options.judge_prompt) if options.judge_prompt else (JUDGE_PROMPT, None)
    return Judge(endpoint, protocol, user, system)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--annotations", type=Path, required=True, help="folder of the six JSON files")
    parser.add_argument("--videos", type=Path, help="folder of videos, v_ID.mp4, .mkv or .webm")
    parser.add_argument("--answerer", default="blind", help="blind, text, lm, openai, or package.module:Class")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=int, help="ask only the first so many questions")
    parser.add_argument("--only-available", action="store_true", help="ask only about videos in --videos")
    parser.add_argument("--out", type=Path, default=Path("results/activitynet_qa"))
    parser.add_argument("--cache", type=Path, default=Path("cache/activitynet_qa"), help="folder of encoded videos")
    parser.add_argument("--model", help="folder of a language model (lm), or name of the endpoint's model (openai)")
    parser.add_argument("--video-model", help="folder or hub id of video weights; default: the shipped ones")
    parser.add_argument(
        "--inputs",
        choices=("auto", "ids", "features"),
        default="auto",
        help="what a language model reads of keyframes; auto: what it was trained with",
    )
    parser.add_argument("--instruction", default="", help="text added after each question (lm)")
    parser.add_argument("--url", help="endpoint that speaks OpenAI's chat completions, http://localhost:8000/v1")
    parser.add_argument("--show", choices=("frames", "tokens"), default="frames", help="what an endpoint is shown")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default="exact",
        help="exact: answers equal the reference; lmms-eval, video-chatgpt: as these ask, and a judge decides",
    )
    parser.add_argument("--judge", metavar="URL", help=f"endpoint of the judge; default: {OPENAI_URL}")
    parser.add_argument("--judge-model", help="name of the judge's model; default: the protocol's, with its date")
    parser.add_argument("--judge-prompt", type=Path, help='other prompt of the judge, JSON {"user": …, "system": …}')
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
