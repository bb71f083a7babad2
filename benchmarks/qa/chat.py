"""A chat endpoint, and a judge: a language model behind such an endpoint that rates answers.

The judged protocol is that of Video-ChatGPT (Maaz et al., arXiv 2306.05424): correct or not, and a score of 0 to 5. The
prompt is our own and is recorded with the results, together with the model and the seed. Figures of other judges are
not comparable digit by digit, and never share a column with exact matches.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from benchmarks.qa.annotations import Question

MAX_ATTEMPTS, FIRST_WAIT_SECONDS = 4, 1.0
JUDGE_PROMPT = """You rate answers to questions about videos. Compare the given answer with the right one: it counts \
when it means the same; synonyms and more detail are fine, contradictions are not.

Question: {question}
Right answer: {answer}
Given answer: {prediction}

Reply with one JSON object and nothing else, such as {{"pred": "yes", "score": 4}}. "pred" is "yes" or "no", "score" \
an integer from 0 (wrong) to 5 (as good as the right answer)."""
MAX_JUDGE_REPLIES = 3
"""Replies to request before an answer stays without a verdict."""


class ChatError(Exception):
    """The endpoint gave no usable reply; the message is one line."""


@dataclass(frozen=True)
class ChatEndpoint:
    """One model behind an endpoint that speaks OpenAI's chat completions."""

    url: str
    """Up to and including `/v1`."""
    model: str
    seed: int = 0
    timeout_seconds: float = 120.0
    first_wait_seconds: float = FIRST_WAIT_SECONDS
    """Wait before the second attempt; doubles at each later one."""

    def ask(self, content: str | list[dict[str, Any]], max_tokens: int) -> str:
        """Return the reply to one message at temperature 0. Busy or failing endpoints are asked up to four times.

        Raises:
            ChatError: the endpoint refuses the request, or still fails.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": self.seed,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        for attempt in range(MAX_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                    return str(json.loads(response.read())["choices"][0]["message"]["content"])
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                with error:
                    if error.code not in (408, 409, 429) and error.code < 500:
                        raise ChatError(f"{self.url} refuses: {reason}: {error.read(300)!r}") from error
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                reason = repr(error)
            if attempt + 1 < MAX_ATTEMPTS:
                time.sleep(self.first_wait_seconds * 2**attempt)
        raise ChatError(f"{self.url} gave no answer in {MAX_ATTEMPTS} attempts: {reason}")


@dataclass(frozen=True)
class Verdict:
    """A judge's rating of one answer."""

    is_correct: bool
    score: int
    """0 (wrong) to 5 (as good as the reference answer)."""


def judge_answer(endpoint: ChatEndpoint, question: Question, prediction: str) -> Verdict | None:
    """Ask the judge to rate an answer; None where none of its replies can be parsed.

    Raises:
        ChatError: the endpoint does not reply.
    """
    prompt = JUDGE_PROMPT.format(question=question.text, answer=question.answer, prediction=prediction)
    for _ in range(MAX_JUDGE_REPLIES):
        if (verdict := parse_verdict(endpoint.ask(prompt, max_tokens=40))) is not None:
            return verdict
    return None


def parse_verdict(reply: str) -> Verdict | None:
    """Parse a judge's reply; None where it is not what `JUDGE_PROMPT` asks for."""
    found = re.search(r"\{.*?\}", reply, re.DOTALL)
    if found is None:
        return None
    try:
        row = json.loads(found.group().replace("'", '"'))
        pred, score = str(row["pred"]).strip().lower(), int(row["score"])
    except (ValueError, KeyError, TypeError):
        return None
    if pred not in ("yes", "no") or not 0 <= score <= 5:
        return None
    return Verdict(pred == "yes", score)


def describe_judge(endpoint: ChatEndpoint) -> dict[str, Any]:
    """Return everything that verdicts depend on, for the results file."""
    return {"judge": endpoint.model, "url": endpoint.url, "seed": endpoint.seed, "prompt": JUDGE_PROMPT}
