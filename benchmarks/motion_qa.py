"""Does motion matter? `python -m benchmarks.motion_qa PHOTOS --still VIDEOS --moving VIDEOS --out results/motion_qa`

Clips of known motion (photographs and footage under a virtual camera, cut-outs that move by themselves, footage that
runs forwards or backwards) are encoded with x264 by ordinary presets and read by their own motion vectors. Tiny
language models of one size, from scratch, learn to answer questions about them; each is shown the same videos in
another form, and is tested on clips of other photographs and other recordings than it learned from.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.motion_questions.clips import Material, asked
from benchmarks.motion_questions.coded import Coded, balanced, coded
from benchmarks.motion_questions.readers import FORMS, answered, embedded_tokenizers
from benchmarks.motion_questions.scenes import ANSWERS
from codec import atomic_path
from videotok.lm.model import VideoLanguageModel
from videotok.pipeline import VideoTokenizer

console = Console(stderr=True)
VARIANTS = tuple(range(8))
"""Of each video that is learned from: in all four mirrors, and each with time turned round."""


def main() -> None:
    options = _options()
    material = Material(options.photos, options.still, options.moving)
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    videos = {
        split: list(
            coded(
                asked(material, options.cache, split, count),
                tokenizer,
                options.cache,
                split,
                variants=VARIANTS if split == "train" else (0,),
                raw="raw field" in options.forms,
                done=_counting(f"{split} videos", count),
            )
        )
        for split, count in (("train", options.train), ("test", options.test))
    }
    facts = {
        "videos": {"train": options.train, "test": options.test, "variants": len(VARIANTS)},
        "steps": options.steps,
        "levels": options.levels,
        "seed": options.seed,
        "answers": balanced(videos["test"]),
    }
    rows: dict[str, Any] = {}
    for form in options.forms:
        model = embedded_tokenizers(
            form,
            tokenizer,
            videos["train"],
            options.out / form.replace(" ", "_"),
            steps=options.steps,
            levels=options.levels,
            seed=options.seed,
            report=_counting_loss(form, options.steps),
        )
        rows[form] = ruled(form, model, videos["test"])
        options.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(options.out / "motion_qa.json") as temporary:
            temporary.write_text(json.dumps(facts | {"rows": rows}, indent=2) + "\n")
        Console().print(table(rows))


def ruled(form: str, model: VideoLanguageModel, videos: Sequence[Coded]) -> dict[str, Any]:
    """Right answers and questions asked, by question."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for video in videos:
        for question, answer in video.answers.items():
            counts[question][0] += answered(form, model, video, question) == answer
            counts[question][1] += 1
    return {question: {"right": right, "asked": total} for question, (right, total) in counts.items()}


def table(rows: dict[str, Any]) -> Table:
    """Percent right, by question and form; chance is one over the number of answers."""
    found = Table("question", "chance", *rows, box=None)
    for question, answers in ANSWERS.items():
        cells = [rows[form][question] for form in rows if question in rows[form]]
        if cells:
            found.add_row(question, f"{100 / len(answers):.0f}", *(_percent(**cell) for cell in cells))
    chances = [
        (cell["asked"], cell["asked"] / len(ANSWERS[question])) for question, cell in next(iter(rows.values())).items()
    ]
    chance = sum(c for _, c in chances) / sum(n for n, _ in chances)
    totals = [(sum(c["right"] for c in row.values()), sum(c["asked"] for c in row.values())) for row in rows.values()]
    found.add_row("all", f"{100 * chance:.0f}", *(_percent(right, asked) for right, asked in totals))
    return found


def _percent(right: int, asked: int) -> str:
    """With the half width of the 95 % interval (Wilson's would be no narrower where it matters here)."""
    share = right / asked
    return f"{100 * share:.1f} ±{196 * math.sqrt(max(share * (1 - share), 0.25 / asked) / asked):.0f}"


def _counting(name: str, count: int):
    def done(number: int) -> None:
        if number % 20 == 0 or number == count:
            console.print(f"{name}: {number} of {count}", highlight=False)

    return done


def _counting_loss(form: str, steps: int):
    seen: list[float] = []

    def report(step: int, figures: dict[str, float]) -> None:
        seen.append(figures["loss"])
        if step % 25 == 0 or step == steps:
            recent = seen[-25:]
            console.print(f"{form}: step {step} of {steps}, loss {sum(recent) / len(recent):.3f}", highlight=False)

    return report


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--still", type=Path, required=True, help="folder of videos whose camera stands still")
    parser.add_argument("--moving", type=Path, required=True, help="folder of videos whose camera moves")
    parser.add_argument("--out", type=Path, default=Path("results/motion_qa"), help="folder of the table and the runs")
    parser.add_argument("--cache", type=Path, default=Path("cache/motion_qa"), help="folder of clips that were made")
    parser.add_argument("--train", type=int, default=400, help="videos to learn from; each in eight variants")
    parser.add_argument("--test", type=int, default=180, help="videos to be tested on")
    parser.add_argument("--steps", type=int, default=1200, help="training steps a form, 32 questions each")
    parser.add_argument("--levels", type=int, default=1, help="levels of motion ids")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="folder or hub id of other video weights than the shipped ones")
    return parser.parse_args()


if __name__ == "__main__":
    main()
