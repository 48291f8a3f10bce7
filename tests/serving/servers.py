"""Servers of vLLM for tests, started as users start them, and asked over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from foveate.engines.vllm.launch import data_url, up

SMALL = (
    "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--block-size", "32", "--max-num-seqs", "8",
    "--served-model-name", "m",
)  # fmt: skip


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(model, log, *options):
    """`foveate serve`, small, writing to a file."""
    words = [sys.executable, "-m", "foveate.cli", "serve", os.fspath(model), *SMALL, *options]
    with log.open("wb") as out:
        return subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"})


@contextmanager
def serving(model, log, *options):
    """A server that has said what a picture costs: its address."""
    port = free_port()
    server = start(model, log, *options, "--host", "127.0.0.1", "--port", str(port))
    try:
        address = f"http://127.0.0.1:{port}"
        assert up(server, address), log.read_text()[-3000:]
        end = time.time() + 300
        while "ready: a picture" not in log.read_text() and time.time() < end:
            time.sleep(2)
        assert "ready: a picture" in log.read_text(), log.read_text()[-3000:]
        yield address
    finally:
        stop(server)


def stop(server):
    server.terminate()
    server.wait(60)


def body(example, plan=None, **more):
    content = [*({"type": "image_url", "image_url": {"url": data_url(p)}} for p in example.pictures()),
               {"type": "text", "text": example.question}]  # fmt: skip
    # The start token, which the instruments' templates leave out.
    out = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0,
           "add_special_tokens": True} | more  # fmt: skip
    return out if plan is None else out | {"mm_processor_kwargs": {"foveate": plan}}


def post(url, data):
    """Status, answer, and prompt tokens or what was wrong."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(data).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            said = json.load(reply)
            return reply.status, said["choices"][0]["message"]["content"], said["usage"]["prompt_tokens"]
    except urllib.error.HTTPError as e:
        return e.code, None, e.read().decode()


def answered(url):
    """Requests that each engine of a server finished, by its number."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    out = {}
    for line in lines:
        if line.startswith("vllm:request_success_total{"):
            engine = line.split('engine="')[1].split('"')[0]
            out[engine] = out.get(engine, 0) + float(line.rpartition(" ")[2])
    return out
