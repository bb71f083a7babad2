"""Questions about pictures: `python -m benchmarks.vqa QUESTIONS ANNOTATIONS IMAGES --model runs/lm --out results/vqa`.

QUESTIONS and ANNOTATIONS are JSON files of the form of VQA 2.0 (Goyal et al., arXiv 1612.00837), which VQA v1, OK-VQA
and TextVQA's conversions share; IMAGES is a folder of pictures named by their COCO id. Nothing is downloaded. Answers
are written one by one, and a run that was killed resumes.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.qa.answerers import AnswererOptions, MediaQuestion, answer_all, make_answerer
from benchmarks.qa.journal import Journal
from videotok.io_utils import write_json

console = Console(stderr=True)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
INSTRUCTION = " Answer the question using a single word or phrase."
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
ARTICLES = ("a", "an", "the")
AGREEING_ANNOTATORS = 3
"""An answer that so many annotators gave is wholly right."""


@dataclass(frozen=True)
class PictureQuestion:
    """A question about a picture, and what the annotators answered."""

    question_id: str
    image_id: int
    text: str
    answers: tuple[str, ...]
    answer_type: str
    """`yes/no`, `number` or `other`; empty where the annotations do not say."""


def load_questions(questions: Path, annotations: Path) -> list[PictureQuestion]:
    """Return the questions in the order of their file.

    Raises:
        SystemExit: a file that is not of this form, or a question without answers.
    """
    try:
        asked = json.loads(questions.read_text(encoding="utf-8"))["questions"]
        rows = json.loads(annotations.read_text(encoding="utf-8"))["annotations"]
        answered = {str(row["question_id"]): row for row in rows}
        return [
            PictureQuestion(
                str(row["question_id"]),
                int(row["image_id"]),
                str(row["question"]),
                tuple(str(answer["answer"]) for answer in answered[str(row["question_id"])]["answers"]),
                str(answered[str(row["question_id"])].get("answer_type", "")),
            )
            for row in asked
        ]
    except OSError as error:
        raise SystemExit(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{questions} and {annotations} are not VQA's {{questions: [question_id, image_id, question]}} and "
            f"{{annotations: [question_id, answers: [answer]]}}: {error!r}"
        ) from error


def find_pictures(folder: Path) -> dict[int, Path]:
    """Return the picture of each COCO id, the last number of a file's name (COCO_val2014_000000000042.jpg is 42)."""
    found: dict[int, Path] = {}
    for path in sorted(folder.rglob("*")):
        number = re.search(r"(\d+)$", path.stem)
        if path.suffix.lower() in PICTURE_SUFFIXES and number:
            found.setdefault(int(number.group()), path)
    return found


def normalize_answer(text: str) -> str:
    """Return an answer as it is compared: lower case, digits for numbers, without articles and punctuation.

    Apostrophes are left out of both sides, where VQA's own script puts them into contractions that lack them.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower().replace("'", "").replace("\u2019", ""))
    text = re.sub(r"(?!(?<=\d)\.(?=\d))[^\w\s:.-]|\.(?!\d)|(?<!\d)\.", " ", text)
    words = [str(NUMBERS.index(word)) if word in NUMBERS else word for word in text.split()]
    return " ".join(word for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return VQA's accuracy, 0 to 1 (Antol et al., arXiv 1505.00468).

    min(annotators that gave this answer / 3, 1), averaged over all ways of leaving one annotator out.
    """
    given = [normalize_answer(answer) for answer in answers]
    matches = np.array([answer == normalize_answer(prediction) for answer in given], float)
    others = matches.sum() - matches if len(matches) > 1 else matches
    return float(np.minimum(others / AGREEING_ANNOTATORS, 1).mean())


def score(questions: Sequence[PictureQuestion], predictions: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the mean accuracy and the number of questions, over all and by answer type. No prediction counts as 0."""
    values: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        prediction = predictions.get(question.question_id)
        value = 0.0 if prediction is None else vqa_accuracy(prediction, question.answers)
        for group in ("all", *([question.answer_type] if question.answer_type else [])):
            values[group].append(value)
    return {name: {"accuracy": float(np.mean(found)), "questions": len(found)} for name, found in values.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line; return what is written to `OUT/vqa-<answerer>.json`."""
    options = _parser().parse_args(arguments)
    questions = load_questions(options.questions, options.annotations)[: options.limit]
    pictures = find_pictures(options.images)
    answerer = make_answerer(
        options.answerer,
        AnswererOptions(
            lambda: [],
            options.cache,
            model=options.model,
            video_model=options.video_model,
            url=options.url,
            instruction=options.instruction,
        ),
    )
    name = "vqa-" + re.sub(r"[^\w.]+", "-", options.answerer)
    description = {"questions": options.questions.name, **answerer.describe()}
    with Journal(options.out / f"{name}.jsonl", description) as journal, Progress(console=console) as progress:
        found = [one for one in questions if one.image_id in pictures]
        asked = [MediaQuestion(one.question_id, one.text, pictures[one.image_id]) for one in found]
        answer_all(answerer, asked, journal, progress)
    predictions = {key: str(row["answer"]) for key, row in journal.rows.items()}
    results = {
        "answerer": answerer.describe(),
        "missing_pictures": sum(question.image_id not in pictures for question in questions),
        "scores": score(questions, predictions),
        "predictions": {question.question_id: predictions.get(question.question_id) for question in questions},
    }
    write_json(options.out / f"{name}.json", results)
    for group, row in results["scores"].items():
        console.print(f"{group}: {100 * row['accuracy']:.2f} % of {row['questions']} questions", highlight=False)
    if results["missing_pictures"]:
        console.print(f"{results['missing_pictures']} questions have no picture in {options.images}: they count as 0")
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("questions", type=Path, help="v2_OpenEnded_mscoco_val2014_questions.json, or one like it")
    parser.add_argument("annotations", type=Path, help="v2_mscoco_val2014_annotations.json, or one like it")
    parser.add_argument("images", type=Path, help="folder of pictures, COCO_val2014_000000000042.jpg")
    parser.add_argument("--answerer", default="lm", help="lm, openai, or package.module:Class")
    parser.add_argument("--model", help="folder of a language model (lm), or name of the endpoint's model (openai)")
    parser.add_argument("--video-model", help="folder or hub id of video weights; default: the shipped ones")
    parser.add_argument("--url", help="endpoint that speaks OpenAI's chat completions, http://localhost:8000/v1")
    parser.add_argument("--instruction", default=INSTRUCTION, help="text added after each question (lm)")
    parser.add_argument("--limit", type=int, help="ask only the first so many questions")
    parser.add_argument("--out", type=Path, default=Path("results/vqa"))
    parser.add_argument("--cache", type=Path, default=Path("cache/vqa"), help="folder of encoded pictures")
    return parser


if __name__ == "__main__":
    main()
