"""An endpoint that speaks OpenAI's chat completions, wherever it runs"""

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

ATTEMPTS, FIRST_WAIT_SECONDS = 4, 1.0


class ChatError(Exception):
    """No usable answer after all attempts; one line."""


@dataclass(frozen=True)
class Chat:
    """One model behind one endpoint."""

    url: str
    """Up to and with `/v1`."""
    model: str
    seed: int = 0
    timeout_seconds: float = 120.0
    first_wait_seconds: float = FIRST_WAIT_SECONDS

    def ask(self, content: str | list[dict[str, Any]], max_tokens: int) -> str:
        """The answer to one message, at temperature 0. Busy and failing endpoints are asked again, four times in all.

        Raises:
            ChatError: refused, or still failing.
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
        for attempt in range(ATTEMPTS):
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
            if attempt + 1 < ATTEMPTS:
                time.sleep(self.first_wait_seconds * 2**attempt)
        raise ChatError(f"{self.url} gave no answer in {ATTEMPTS} attempts: {reason}")
