"""The official exact-match accuracy of ActivityNet-QA, overall and by type

The published evaluation script takes the denominator of Free from the order in which types first appear in the
annotations: on its own example it prints 0.7583, where 6369 of 12600 free questions are right, 0.5055. Here Free is the
types 3 to 8. A missing prediction is wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.qa.annotations import TYPES, Question

FREE = range(3, 9)
SAMPLES = 2000
"""Of the bootstrap."""


def exact(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy `all`, `free` and by type: each {accuracy, low, high, asked}, shares from 0 to 1.

    `low` and `high` bound the 95 % interval of a bootstrap over questions, with a fixed seed.
    """
    right = np.array([predictions.get(question.question_id) == question.answer for question in questions], bool)
    return by_type(questions, right.astype(float))


def by_type(questions: Sequence[Question], values: np.ndarray) -> dict[str, Any]:
    """Means of one value a question, [n], with their intervals: over all, over Free, over each type that is asked."""
    types = np.array([question.type for question in questions])
    groups = {"all": np.ones(len(types), bool), "free": np.isin(types, list(FREE))}
    groups |= {name: types == number for number, name in enumerate(TYPES)}
    return {name: _mean(values[chosen]) for name, chosen in groups.items() if chosen.any()}


def _mean(values: np.ndarray) -> dict[str, float | int]:
    rng = np.random.default_rng(0)
    # a resample of values that repeat is a multinomial draw over them
    kinds, counts = np.unique(values, return_counts=True)
    draws = rng.multinomial(len(values), counts / len(values), SAMPLES) @ kinds / len(values)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"accuracy": float(values.mean()), "low": float(low), "high": float(high), "asked": len(values)}
