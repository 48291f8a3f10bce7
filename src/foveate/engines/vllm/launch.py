"""Start vLLM's own server with a plan, wait until it answers, and see from an answer that the plan is in force."""

import base64
import io
import json
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from PIL import Image

from foveate.engines.vllm.hook import check_version
from foveate.engines.vllm.settings import ALL, KEY
from foveate.errors import FoveateError, ModelError, short

_OURS = ssl._create_unverified_context()
"""The server was started here; its certificate names it as others know it."""
PROBE = (448, 448)
"""Pixels of the picture that is asked about first."""


def command(source: str, settings: Any, extra: Sequence[str], fixed: bool = False) -> list[str]:
    """vLLM's command line.

    Args:
        source: folder or hub id.
        settings: what goes under "foveate".
        extra: vLLM's own options, passed on; an --hf-overrides among them is joined with ours.
        fixed: requests may not choose for themselves.

    Raises:
        FoveateError: --hf-overrides is no JSON object.
        ModelError: a vLLM that was not tested.
    """
    check_version()
    rest: list[str] = []
    overrides: dict[str, Any] = {}
    words = iter(extra)
    for word in words:
        name, sign, value = word.partition("=")
        # As vLLM reads them, of which the last would win over ours.
        name = name.replace("_", "-")
        if name.startswith("--hf-overrides."):
            raise FoveateError(f"{word} cannot be joined with the plan; write --hf-overrides with one JSON object")
        if name == "--hf-overrides":
            try:
                more = json.loads(value if sign else next(words, ""))
            except json.JSONDecodeError as e:
                raise FoveateError(f"--hf-overrides is no JSON: {e.msg}") from None
            if not isinstance(more, dict):
                raise FoveateError(f"--hf-overrides is {short(json.dumps(more))}; it must be a JSON object")
            overrides |= more
        else:
            rest.append(word)
    trust = [] if fixed else ["--trust-request-mm-kwargs"]
    ours = json.dumps({**overrides, KEY: settings})
    start = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", source, "--hf-overrides", ours]
    return [*start, *trust, *rest]


@contextmanager
def serving(source: str, settings: Any, extra: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """A server on a free port of this machine for the time of a block; gives its address and its process.

    Args:
        source: folder or hub id.
        settings: as in `command`; None starts vLLM as it is.
        extra: vLLM's own options.

    Raises:
        ModelError: it ended before it answered, or before the block did.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = [*extra, "--host", "127.0.0.1", "--port", str(port)]
    stock = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", source, *options]
    words = stock if settings is None else command(source, settings, options)
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(words, stdout=log, stderr=log)

        def last_words() -> str:
            log.seek(0)
            return log.read()[-2000:].decode(errors="replace")

        try:
            url = f"http://127.0.0.1:{port}"
            if not up(server, url):
                raise ModelError(f"vLLM did not start: {last_words()}")
            try:
                yield url, server.pid
            except FoveateError as error:
                # An engine that dies takes its front end with it, some seconds later.
                with suppress(subprocess.TimeoutExpired):
                    server.wait(10)
                if server.poll() is None:
                    raise
                raise ModelError(f"vLLM ended by itself ({server.returncode}): {last_words()}") from error
        finally:
            server.terminate()
            server.wait()


def processor_seconds(pid: int) -> float:
    """What a server and all its processes have computed so far."""
    import psutil  # as vLLM does

    server = psutil.Process(pid)
    times = [p.cpu_times() for p in (server, *server.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def option(extra: Sequence[str], name: str, default: str) -> str:
    """The value of one of vLLM's options."""
    words = list(extra)
    for i, word in enumerate(words):
        said, sign, value = word.partition("=")
        if said.replace("_", "-") == name and (sign or i + 1 < len(words)):
            return value if sign else words[i + 1]
    return default


def address(extra: Sequence[str]) -> str:
    """Where vLLM answers this machine, from its own options."""
    # Everywhere is where it may listen, and no place to ask at.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host := option(extra, "--host", "127.0.0.1"), host)
    scheme = "https" if option(extra, "--ssl-certfile", "") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{option(extra, '--port', '8000')}"


def run(words: Sequence[str], url: str, fixed: bool, tell: Callable[[str], None], key: str = "") -> int:
    """Run the server until it ends; gives its exit status.

    Raises:
        ModelError: it answers as if there were no plan.
    """
    server = subprocess.Popen(words)
    # Ctrl-C reaches the server as well; what is to be done then is its own affair.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: server.send_signal(n))
    try:
        # A node without a front end has nobody to ask.
        if "--headless" not in words and up(server, url):
            tell(verdict(url, fixed, key))
        return server.wait()
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()


def up(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for the server to answer; False if it ends first."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5, context=_OURS):
                return True
        except OSError:
            time.sleep(1)
    return False


def verdict(url: str, fixed: bool, key: str = "") -> str:
    """What a picture costs, in words; `key` is the server's --api-key.

    Raises:
        ModelError: as much with the plan as without.
    """
    text, mine = cost(url, picture=False, key=key), cost(url, key=key)
    if fixed:
        return f"ready: a picture of {PROBE[0]} x {PROBE[1]} pixels costs {mine - text} tokens"
    whole = cost(url, {KEY: ALL}, key=key)
    if mine >= whole:
        raise ModelError(
            f"the server is up, but a picture costs {mine - text} tokens with the plan and {whole - text} without: "
            "nothing is pruned. If the plan keeps everything, start vLLM without it; otherwise look for Foveate in the "
            "server's log (VLLM_PLUGINS may leave it out)"
        )
    return f"ready: a picture of {PROBE[0]} x {PROBE[1]} pixels costs {mine - text} tokens instead of {whole - text}"


def cost(url: str, settings: Any = None, picture: bool = True, key: str = "") -> int:
    """Prompt tokens of one short question, with a picture or without."""
    content: list[Any] = [{"type": "text", "text": "what is this?"}]
    if picture:
        content.insert(0, {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", PROBE, "white"))}})
    more = {"mm_processor_kwargs": settings} if settings else {}
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 1} | more
    return int(post(url, asked, key)["usage"]["prompt_tokens"])


def post(url: str, body: dict[str, Any], key: str = "") -> Any:
    """One chat completion.

    Raises:
        FoveateError: what the server said instead.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=600, context=_OURS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as e:
        raise FoveateError(f"the server answers {e.code}: {e.read().decode(errors='replace')[:500]}") from None


def data_url(picture: Image.Image) -> str:
    """A picture as a request carries it."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
