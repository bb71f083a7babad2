"""ActivityNet-QA: each rule of the scores, computed by hand."""

import numpy as np
import pytest

from benchmarks.qa.annotations import Question, find_videos
from benchmarks.qa.answerers import AnswererOptions, BlindAnswerer, make_answerer, shorten_answer
from benchmarks.qa.protocols import PROTOCOLS, Judge, Verdict, load_judge_prompt, parse_verdict
from benchmarks.qa.scores import exact_match, wordnet_similarity, wups

EXAMPLE = (
    (338, 1800),
    (402, 1800),
    (63, 1800),
    (3085, 4041),
    (527, 1565),
    (213, 961),
    (136, 473),
    (947, 1479),
    (1461, 4081),
)
"""Right answers and questions by type of the example that is published with the annotations' evaluation script."""


def questions_of(*rows):
    return [Question(f"v_{i}", "x", "what", answer, kind) for i, (answer, kind) in enumerate(rows)]


def test_published_example():
    """The script prints 0.3984 for all and, by a slip in its denominator, 0.7583 for Free."""
    questions = [
        Question(f"{kind}-{i}", "x", "what", "yes", kind)
        for kind, (_, total) in enumerate(EXAMPLE)
        for i in range(total)
    ]
    right = {f"{kind}-{i}": "yes" for kind, (count, _) in enumerate(EXAMPLE) for i in range(count)}
    found = exact_match(questions, right)
    assert found["all"]["accuracy"] == pytest.approx(0.3984, abs=5e-5)
    assert found["free"]["accuracy"] == pytest.approx(0.5055, abs=5e-5)
    assert found["free"]["questions"] == 12600
    assert found["motion"]["accuracy"] == pytest.approx(338 / 1800)


def test_exact_means_exact_and_missing_is_wrong():
    questions = questions_of(("yes", 3), ("red", 4), ("two men", 8), ("left", 0))
    found = exact_match(questions, {"v_0": "yes", "v_1": "Red", "v_2": "two", "elsewhere": "left"})
    assert found["all"] == pytest.approx({"accuracy": 0.25, "low": 0.0, "high": 0.75, "questions": 4})
    assert found["free"]["accuracy"] == pytest.approx(1 / 3)
    assert "spatial" not in found


def test_the_interval_contains_the_mean_and_narrows():
    few, many = ([i % 2 for i in range(n)] for n in (40, 4000))
    widths = []
    for rows in (few, many):
        questions = questions_of(*(("yes" if row else "no", 3) for row in rows))
        found = exact_match(questions, {question.question_id: "yes" for question in questions})["all"]
        assert found["low"] < 0.5 < found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.2)


def test_wups():
    alike = {("dog", "cat"): 0.86, ("cat", "dog"): 0.86}

    def similarity(left, right):
        return 1.0 if left == right else alike.get((left, right), 0.2)

    assert wups("dog", "dog", 0.9, similarity) == 1.0
    assert wups("cat", "dog", 0.9, similarity) == pytest.approx(0.086)
    assert wups("cat", "dog", 0.0, similarity) == pytest.approx(0.86)
    assert wups("dog", "black dog", 0.0, similarity) == pytest.approx(0.2)
    assert wups("", "dog", 0.0, similarity) == 0.0


def test_senses_are_those_of_nouns():
    similarity = wordnet_similarity()
    if similarity is None:
        pytest.skip("WordNet is not installed")
    assert similarity("dog", "cat") == pytest.approx(0.857, abs=0.01)
    assert similarity("red", "red") == 1.0
    assert similarity("eat", "went") == 0.0  # no nouns


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"pred": "yes", "score": 4}', Verdict(True, 4)),
        ("Sure: {'pred': 'No', 'score': 0} as asked", Verdict(False, 0)),
        ('{"pred": "maybe", "score": 4}', None),
        ('{"pred": "yes", "score": 7}', None),
        ("yes", None),
        ("{'pred': 'Yes', 'score': 4.8}", Verdict(True, 4)),
        ('{"pred": None, "score": 0', None),
    ],
)
def test_verdicts(reply, found):
    assert parse_verdict(reply) == found


class Replies:
    """An endpoint that replies the same to everything, and keeps what it was asked."""

    model, url, seed = "j", "http://nowhere", 0

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def ask(self, content, max_tokens, *, system=None):
        self.asked.append((system, content, max_tokens))
        return self.reply


QUESTION = Question("v_1", "v", "what is {it}", "dog", 8)


@pytest.mark.parametrize(("protocol", "times"), [("lmms-eval", 1), ("video-chatgpt", 3)])
def test_an_unreadable_verdict_is_asked_for_again_where_the_protocol_says_so(protocol, times):
    replies = Replies("hm")
    assert Judge(replies, PROTOCOLS[protocol]).rate(QUESTION, "a dog") is None  # pyright: ignore[reportArgumentType]
    assert len(replies.asked) == times
    assert replies.asked[0][2] == PROTOCOLS[protocol].max_verdict_tokens


def test_a_judge_sees_question_reference_and_answer(tmp_path):
    replies = Replies('{"pred": "yes", "score": 5}')
    own = Judge(replies, PROTOCOLS["lmms-eval"])  # pyright: ignore[reportArgumentType]
    assert own.rate(QUESTION, "a {dog}") == Verdict(True, 5)
    assert all(part in replies.asked[0][1] for part in ("what is {it}", "a {dog}", '{"pred": "yes", "score": 4}'))
    path = tmp_path / "prompt.json"
    path.write_text('{"system": "be strict", "user": "{question}|{answer}|{prediction}|{}"}')
    other = Judge(replies, PROTOCOLS["lmms-eval"], *load_judge_prompt(path))  # pyright: ignore[reportArgumentType]
    other.rate(QUESTION, "a dog")
    assert replies.asked[1][:2] == ("be strict", "what is {it}|dog|a dog|{}")
    assert other.describe()["system_prompt"] == "be strict"
    path.write_text('{"user": "{question}"}')
    with pytest.raises(SystemExit, match=r"lacks \{answer\}, \{prediction\}"):
        load_judge_prompt(path)
    with pytest.raises(SystemExit, match="is not a judge's prompt"):
        load_judge_prompt(tmp_path / "none.json")


def test_questions_are_put_as_the_protocol_says():
    asked = {name: protocol.format_question("is he tall") for name, protocol in PROTOCOLS.items()}
    assert asked["exact"] == asked["video-chatgpt"] == "is he tall"
    assert asked["lmms-eval"] == "Is he tall? Answer the question using a single word or phrase."


def test_shorten_answer():
    assert shorten_answer(" A Dog. It runs.\nAnd more") == "a dog"
    assert shorten_answer("3.5 metres!") == "3.5 metres"


def test_blind_falls_back_to_questions_that_begin_alike(tmp_path):
    rows = [
        ("is he tall", "yes"),
        ("is he tall", "yes"),
        ("is he tall", "no"),
        ("is he old", "no"),
        ("what", "a"),
        ("is she", "no"),
    ]
    train = [Question(str(i), "x", text, answer, 3) for i, (text, answer) in enumerate(rows)]
    blind = BlindAnswerer(AnswererOptions(lambda: train, tmp_path))
    assert blind.answer("is he tall", None) == "yes"
    assert blind.answer("is he fat", None) == "no"  # of yes, yes, no, no the first in the alphabet
    assert blind.answer("is she", None) == "no"
    assert blind.answer("why", None) == "no"


def test_videos_are_matched_by_name(tmp_path):
    for name in ("v_abc.mp4", "x__v_a_v_b.webm", "v_other.mp4", "abc.txt"):
        (tmp_path / name).touch()
    found = find_videos(tmp_path, {"abc", "a_v_b", "zzz"})
    assert {name: path.name for name, path in found.items()} == {"abc": "v_abc.mp4", "a_v_b": "x__v_a_v_b.webm"}
    with pytest.raises(SystemExit, match="not a folder"):
        find_videos(tmp_path / "nothing", set())


def test_answerers_by_name(tmp_path):
    options = AnswererOptions(lambda: [], tmp_path)
    with pytest.raises(SystemExit, match="no answerer nobody; there are blind, text"):
        make_answerer("nobody", options)
    with pytest.raises(SystemExit, match="cannot load answerer"):
        make_answerer("nowhere.at.all:Class", options)
    assert make_answerer("test_activitynet_qa:Parrot", options).answer("what", None) == "what"


def test_no_questions_have_no_mean():
    assert "all" not in exact_match([], {})
    assert np.isfinite(exact_match(questions_of(("a", 8)), {})["all"]["high"])
