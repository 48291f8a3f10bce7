"""A server's answers, in the words of the other engine: `answer(examples)`, greedy, and what each cost."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from foveate.data import Example
from foveate.engines.vllm.launch import data_url
from foveate.engines.vllm.settings import ALL, KEY
from foveate.errors import FoveateError, short
from foveate.plan import Plan


@dataclass(frozen=True)
class Reply:
    """One answer.

    Args:
        text: the greedy answer.
        new_tokens: its tokens.
        prompt_tokens: of the pruned prompt.
        began: when it was asked, in seconds of this process's clock.
        first: seconds until the first word came.
        total: seconds until the last one did.
    """

    text: str
    new_tokens: int
    prompt_tokens: int
    began: float
    first: float
    total: float


@dataclass(frozen=True)
class Served:
    """A running server.

    Args:
        url: where it listens, without /v1.
        model: as it calls it.
        plans: whether it takes a plan with each request; a stock vLLM does not.
    """

    url: str
    model: str
    plans: bool = True

    def answer(
        self, examples: Sequence[Example], plan: Plan | None = None, max_new_tokens: int = 64, concurrency: int = 1
    ) -> list[Reply]:
        """Answers in the order of the examples, at most `concurrency` asked at once.

        Raises:
            FoveateError: what the server said instead; a plan for a server that takes none.
        """
        if plan is not None and not self.plans:
            raise FoveateError("this server was started without a plan, and takes none; start it with foveate serve")
        wish = {} if not self.plans else {KEY: json.loads(plan.to_json()) if plan else ALL}
        bodies = [self._body(e, wish, max_new_tokens) for e in examples]
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(self._ask, bodies))

    def _body(self, example: Example, wish: dict[str, Any], longest: int) -> bytes:
        pictures = [{"type": "image_url", "image_url": {"url": data_url(p)}} for p in example.pictures()]
        content = [*pictures, {"type": "text", "text": example.question}]
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": longest,
            # As transformers' processors do; a template that writes the start token itself is left alone by vLLM too.
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "add_special_tokens": True,
        }  # fmt: skip
        return json.dumps(body | ({"mm_processor_kwargs": wish} if wish else {})).encode()

    def _ask(self, body: bytes) -> Reply:
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
        start = time.perf_counter()
        first, text = 0.0, ""
        usage: dict[str, int] = {}
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                for line in reply:
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:  # the answer had begun
                        raise FoveateError(f"the server breaks off: {short(json.dumps(event['error']), 500)}")
                    usage = event.get("usage") or usage
                    said = "".join(c["delta"].get("content") or "" for c in event["choices"])
                    first = first or (time.perf_counter() - start if said else 0.0)
                    text += said
        except urllib.error.HTTPError as e:
            raise FoveateError(f"the server answers {e.code}: {e.read().decode(errors='replace')[:500]}") from None
        except OSError as e:
            raise FoveateError(f"no server at {self.url} ({e}); start one with foveate serve") from None
        total = time.perf_counter() - start
        tokens = usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0)
        return Reply(text.strip(), *tokens, start, first or total, total)
