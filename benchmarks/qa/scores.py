"""Scores of short answers: exact-match accuracy by question type, and WUPS.

The published evaluation script takes the denominator of Free from the order in which types first appear in the
annotations: on its own example it prints 0.7583, where 6369 of 12600 free questions are right, 0.5055. Here Free is the
types 3 to 8. A missing prediction is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.qa.annotations import QUESTION_TYPES, Question

FREE_TYPES = range(3, 9)
BOOTSTRAP_SAMPLES = 2000
WUPS_DOWN_WEIGHT = 0.1
"""Factor of word pairs that are less similar than the threshold."""

Similarity = Callable[[str, str], float]
"""(word, word) -> 0 to 1."""


def exact_match(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, Any]:
    """Return the exact-match accuracy as `means_by_type` does.

    Args:
        questions: with their reference answers.
        predictions: question id -> predicted answer.
    """
    correct = np.array([predictions.get(question.question_id) == question.answer for question in questions], bool)
    return means_by_type(questions, correct.astype(float))


def means_by_type(questions: Sequence[Question], values: np.ndarray) -> dict[str, Any]:
    """Return the mean of one value a question over all questions, over Free, and over each type that occurs.

    Args:
        questions: n questions.
        values: float [n].

    Returns:
        `all`, `free` and type names, each {accuracy, low, high, questions}. `low` and `high` bound the 95 % interval of
        a bootstrap over questions with a fixed seed.
    """
    types = np.array([question.type for question in questions])
    groups = {"all": np.ones(len(types), bool), "free": np.isin(types, list(FREE_TYPES))}
    groups |= {name: types == number for number, name in enumerate(QUESTION_TYPES)}
    return {name: _mean_with_interval(values[chosen]) for name, chosen in groups.items() if chosen.any()}


def _mean_with_interval(values: np.ndarray) -> dict[str, float | int]:
    rng = np.random.default_rng(0)
    # values repeat, so a bootstrap sample is a multinomial draw over the distinct ones
    distinct, counts = np.unique(values, return_counts=True)
    draws = rng.multinomial(len(values), counts / len(values), BOOTSTRAP_SAMPLES) @ distinct / len(values)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"accuracy": float(values.mean()), "low": float(low), "high": float(high), "questions": len(values)}


def mean_wups(
    questions: Sequence[Question], predictions: Mapping[str, str], similarity: Similarity
) -> dict[str, float]:
    """Return the mean WUPS at the thresholds 0.9 and 0.0; a missing prediction counts as an empty one."""
    return {
        str(threshold): float(
            np.mean([wups(predictions.get(q.question_id, ""), q.answer, threshold, similarity) for q in questions])
        )
        for threshold in (0.9, 0.0)
    }


def wups(prediction: str, answer: str, threshold: float, similarity: Similarity) -> float:
    """Return the word similarity of two answers, 0 to 1 (Malinowski and Fritz, arXiv 1410.0210, eq. 5).

    Each word of one side takes its best match on the other side; the products of both sides are computed, and the
    smaller one counts.
    """
    predicted_words, answer_words = prediction.split(), answer.split()
    if not predicted_words or not answer_words:
        return float(predicted_words == answer_words)
    return min(
        _best_match_product(predicted_words, answer_words, threshold, similarity),
        _best_match_product(answer_words, predicted_words, threshold, similarity),
    )


def _best_match_product(words: list[str], others: list[str], threshold: float, similarity: Similarity) -> float:
    product = 1.0
    for word in words:
        best = max(similarity(word, other) for other in others)
        product *= best if best >= threshold else WUPS_DOWN_WEIGHT * best
    return product


def wordnet_similarity() -> Similarity | None:
    """Return Wu and Palmer's similarity of two words: the best over their senses as nouns, as in the authors' script.

    None where WordNet is not installed (`pip install nltk`, `python -m nltk.downloader wordnet`).
    """
    try:
        from nltk.corpus import wordnet  # pyright: ignore[reportMissingImports]

        wordnet.synsets("word")
    except (ImportError, LookupError, OSError):  # OSError: some of WordNet's files are missing
        return None
    # nltk parses the version at every comparison, which takes two thirds of the time
    version = wordnet.get_version()
    wordnet.get_version = lambda: version

    @lru_cache(maxsize=200_000)
    def similarity(left: str, right: str) -> float:
        if left == right:
            return 1.0
        pairs = ((a, b) for a in wordnet.synsets(left, "n") for b in wordnet.synsets(right, "n"))
        return max((a.wup_similarity(b) or 0.0 for a, b in pairs), default=0.0)

    return similarity
