"""Protocols of ActivityNet-QA: how a question is put to a model, and how its answer becomes right or wrong.

exact           The answer's first sentence in lower case equals the reference: the protocol of the authors (arXiv
                1906.02467), for models that were trained on the answers' form.
lmms-eval       Task `activitynetqa` of lmms-eval 0.7: the question with a capital and a question mark, then a request
                for a single word or phrase; the whole reply goes to a judge, which says yes or no and gives 0 to 5; a
                verdict that cannot be read counts as no, with 0.
video-chatgpt   Evaluation of Video-ChatGPT (arXiv 2306.05424): the bare question; the whole reply goes to a judge,
                which is asked again where its verdict cannot be read.

The judge's prompts of both say the same as `JUDGE_PROMPT`, in other words. For theirs, word by word, give a file
(`--judge-prompt`), or run lmms-eval itself with `videotok.lm.lmms_eval`.
"""

import json
import re
from ast import literal_eval
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.qa.annotations import Question
from benchmarks.qa.chat import ChatEndpoint

OPENAI_URL = "https://api.openai.com/v1"
MAX_JUDGE_REPLIES = 3
"""Replies to request before an answer stays without a verdict, where the protocol asks again."""
JUDGE_PROMPT = """You rate answers to questions about videos. Compare the given answer with the right one: it counts \
when it means the same; synonyms and more detail are fine, contradictions are not.

Question: {question}
Right answer: {answer}
Given answer: {prediction}

Reply with one JSON object and nothing else, such as {"pred": "yes", "score": 4}. "pred" is "yes" or "no", "score" \
an integer from 0 (wrong) to 5 (as good as the right answer)."""


@dataclass(frozen=True)
class QaProtocol:
    """How questions are asked and answers are scored."""

    name: str
    suffix: str | None = None
    """Text after the question, which then begins with a capital and ends with a question mark. None: the question as
    it is annotated."""
    judge_model: str | None = None
    """The judge by default; None: answers are compared exactly."""
    max_verdict_tokens: int = 40
    asks_again: bool = False
    """Whether a judge whose verdict cannot be read is asked again; else the answer counts as wrong."""

    @property
    def is_judged(self) -> bool:
        """Whether a language model judges the answers."""
        return self.judge_model is not None

    def format_question(self, question: str) -> str:
        """Return the text that a model is asked."""
        return question if self.suffix is None else f"{question.capitalize()}?{self.suffix}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        QaProtocol("exact"),
        QaProtocol(
            "lmms-eval",
            suffix=" Answer the question using a single word or phrase.",
            judge_model="gpt-4o-2024-11-20",
            max_verdict_tokens=64,
        ),
        # its script names gpt-3.5-turbo, which has meant several models over time; this one can still be asked for
        QaProtocol("video-chatgpt", judge_model="gpt-3.5-turbo-0125", asks_again=True),
    )
}


@dataclass(frozen=True)
class Verdict:
    """A judge's rating of one answer."""

    is_correct: bool
    score: int
    """0 (wrong) to 5 (as good as the reference answer)."""


@dataclass(frozen=True)
class Judge:
    """A language model behind an endpoint that rates answers.

    Args:
        endpoint: of the model.
        protocol: a judged one.
        user_prompt: with {question}, {answer} and {prediction}.
        system_prompt: of the conversation; None: there is none.
    """

    endpoint: ChatEndpoint
    protocol: QaProtocol
    user_prompt: str = JUDGE_PROMPT
    system_prompt: str | None = None

    def rate(self, question: Question, prediction: str) -> Verdict | None:
        """Return the rating of an answer; None where no reply of the judge can be read.

        Raises:
            ChatError: the endpoint does not reply.
        """
        # replaced one by one: a prompt has other braces too
        prompt = self.user_prompt
        for name, value in {"question": question.text, "answer": question.answer, "prediction": prediction}.items():
            prompt = prompt.replace(f"{{{name}}}", value)
        for _ in range(MAX_JUDGE_REPLIES if self.protocol.asks_again else 1):
            reply = self.endpoint.ask(prompt, self.protocol.max_verdict_tokens, system=self.system_prompt)
            if (verdict := parse_verdict(reply)) is not None:
                return verdict
        return None

    def describe(self) -> dict[str, Any]:
        """Return everything that verdicts depend on, for the results file."""
        return {
            "judge": self.endpoint.model,
            "url": self.endpoint.url,
            "seed": self.endpoint.seed,
            "protocol": self.protocol.name,
            "prompt": self.user_prompt,
            "system_prompt": self.system_prompt,
        }


def parse_verdict(reply: str) -> Verdict | None:
    """Return the verdict in a judge's reply, a dictionary with `pred` and `score`; None where there is none."""
    found = re.search(r"\{[^{}]*\}", reply)
    if found is None:
        return None
    for parse in (json.loads, literal_eval):
        try:
            row = parse(found.group())
            pred, score = str(row["pred"]).strip().lower(), int(row["score"])
        except (ValueError, KeyError, TypeError, SyntaxError):
            continue
        if ("yes" in pred or "no" in pred) and 0 <= score <= 5:
            return Verdict("yes" in pred, score)
    return None


def load_judge_prompt(path: Path) -> tuple[str, str | None]:
    """Return the user's and the system's prompt from a JSON file: {"user": TEXT, "system": TEXT}; `system` may lack.

    Raises:
        SystemExit: it is not such a file, or its user's prompt lacks {question}, {answer} or {prediction}.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        user, system = row["user"], row.get("system")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f'{path} is not a judge\'s prompt, {{"user": TEXT, "system": TEXT}}: {error}') from error
    if not isinstance(user, str) or not isinstance(system, str | None):
        raise SystemExit(f'{path}: "user" and "system" must be texts')
    if missing := [name for name in ("{question}", "{answer}", "{prediction}") if name not in user]:
        raise SystemExit(f'{path}: "user" lacks {", ".join(missing)}')
    return user, system
