"""A chat endpoint: one model behind a URL that speaks OpenAI's chat completions."""

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

MAX_ATTEMPTS, FIRST_WAIT_SECONDS = 4, 1.0


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

    def ask(self, content: str | list[dict[str, Any]], max_tokens: int, *, system: str | None = None) -> str:
        """Return the reply to one message at temperature 0. Busy or failing endpoints are asked up to four times.

        Args:
            content: the user's message: text, or a list of texts and images.
            max_tokens: of the reply at most.
            system: the message of the system before it, if any.

        Raises:
            ChatError: the endpoint refuses the request, or still fails.
        """
        message = {"role": "user", "content": content}
        body = {
            "model": self.model,
            "messages": [*([{"role": "system", "content": system}] if system else []), message],
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
