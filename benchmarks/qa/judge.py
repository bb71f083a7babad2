"""The judged protocol: a language model says of each answer whether it means the right one, and how near it is

As Video-ChatGPT (Maaz et al., arXiv 2306.05424) introduced it: yes or no, and a score of 0 to 5. The wording is ours
and is recorded with the results, together with the model and the seed: figures of other judges are not comparable digit
by digit, and never stand in one column with exact matches.
"""

import json
import re
from typing import Any, NamedTuple

from benchmarks.qa.annotations import Question
from benchmarks.qa.chat import Chat, ChatError

PROMPT = """You rate answers to questions about videos. Compare the given answer with the right one: it counts when it \
means the same; synonyms and more detail are fine, contradictions are not.

Question: {question}
Right answer: {answer}
Given answer: {prediction}

Reply with one JSON object and nothing else, such as {{"pred": "yes", "score": 4}}. "pred" is "yes" or "no", "score" \
an integer from 0 (wrong) to 5 (as good as the right answer)."""
READINGS = 3
"""Replies that are asked for before one that cannot be read counts as none."""


class Verdict(NamedTuple):
    """What a judge says of one answer."""

    is_right: bool
    score: int


def judged(chat: Chat, question: Question, prediction: str) -> Verdict | None:
    """The verdict; None where the judge gave none that can be read.

    Raises:
        ChatError: the endpoint does not answer.
    """
    text = PROMPT.format(question=question.text, answer=question.answer, prediction=prediction)
    for _ in range(READINGS):
        if (found := verdict(chat.ask(text, max_tokens=40))) is not None:
            return found
    return None


def verdict(reply: str) -> Verdict | None:
    """Reads a judge's reply; None where it is not what was asked for."""
    found = re.search(r"\{.*?\}", reply, re.DOTALL)
    if found is None:
        return None
    try:
        row = json.loads(found.group().replace("'", '"'))
        is_right, score = str(row["pred"]).strip().lower(), int(row["score"])
    except (ValueError, KeyError, TypeError):
        return None
    if is_right not in ("yes", "no") or not 0 <= score <= 5:
        return None
    return Verdict(is_right == "yes", score)


def facts(chat: Chat) -> dict[str, Any]:
    """What verdicts depend on."""
    return {"judge": chat.model, "url": chat.url, "seed": chat.seed, "prompt": PROMPT}


__all__ = ["PROMPT", "ChatError", "Verdict", "facts", "judged", "verdict"]
