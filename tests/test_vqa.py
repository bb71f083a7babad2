"""benchmarks.vqa: the formula and the normalization by hand, and a run that is resumed."""

import json

import pytest
from PIL import Image

from benchmarks.vqa import find_pictures, main, normalize_answer, vqa_accuracy


class Namer:
    """An answerer that says the name of the file."""

    needs_video = True
    asked = 0

    def __init__(self, options):
        self.options = options

    def describe(self):
        return {"answerer": "namer"}

    def answer(self, question, video):
        type(self).asked += 1
        return video.stem


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    # one annotator left out: with 3 of 10 agreeing, 3 ways leave two (2/3) and 7 leave three (1)
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_accuracy_is_vqas(agreeing, accuracy):
    answers = ["Dog"] * agreeing + ["cat"] * (10 - agreeing)
    assert vqa_accuracy("a dog.", answers) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Red Bus!", "red bus"),
        ("Two", "2"),
        ("1,000", "1000"),
        ("2.5 m.", "2.5 m"),
        ("don't know", "dont know"),
        ("10:30", "10:30"),
        ("black-and-white", "black-and-white"),
        ("a", ""),
    ],
)
def test_answers_are_compared_without_form(text, found):
    assert normalize_answer(text) == found


def test_a_run_counts_missing_pictures_and_resumes(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("COCO_val2014_000000000007.jpg", "12.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    assert {number: path.name for number, path in find_pictures(folder).items()} == {
        7: "COCO_val2014_000000000007.jpg",
        12: "12.png",
    }
    questions, annotations = tmp_path / "q.json", tmp_path / "a.json"
    rows = [{"question_id": number, "image_id": number, "question": "what"} for number in (7, 12, 99)]
    questions.write_text(json.dumps({"questions": rows}))
    answers = [{"answer": "12"}] * 10
    annotations.write_text(
        json.dumps(
            {"annotations": [{"question_id": n, "answers": answers, "answer_type": "number"} for n in (7, 12, 99)]}
        )
    )
    command = [str(questions), str(annotations), str(folder), "--answerer", "test_vqa:Namer", "--out", str(tmp_path)]
    results = main(command)
    assert results["scores"]["all"] == results["scores"]["number"] == {"accuracy": pytest.approx(1 / 3), "questions": 3}
    assert results["missing_pictures"] == 1
    assert results["predictions"] == {"7": "COCO_val2014_000000000007", "12": "12", "99": None}
    asked = Namer.asked
    main(command)
    assert Namer.asked == asked


def test_files_of_another_form_are_refused(tmp_path):
    path = tmp_path / "q.json"
    with pytest.raises(SystemExit, match="cannot read"):
        main([str(path), str(path), str(tmp_path)])
    path.write_text('{"questions": [{"question_id": 1}]}')
    with pytest.raises(SystemExit, match="are not VQA's"):
        main([str(path), str(path), str(tmp_path)])
