"""Starting a server and asking it, against one that only counts: no vLLM needed."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from foveate import methods
from foveate.data import Example
from foveate.engines.vllm import hook, launch
from foveate.engines.vllm.client import Served
from foveate.errors import FoveateError, ModelError


class Counter(BaseHTTPRequestHandler):
    """Ten tokens of text, and a picture of 100, of which `prunes` leaves 25 unless a request wants all."""

    prunes = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            return self.answer(401, {"error": "Unauthorized"})
        self.server.seen.append(body)
        pictures = sum(p["type"] == "image_url" for p in body["messages"][0]["content"])
        wish = body.get("mm_processor_kwargs", {}).get("foveate")
        if wish == "refuse":
            return self.answer(400, {"error": "no such method"})
        usage = {
            "prompt_tokens": 10 + pictures * (25 if self.prunes and wish != "all" else 100),
            "completion_tokens": 2,
        }
        if not body.get("stream"):
            return self.answer(200, {"choices": [{"message": {"content": "a b"}}], "usage": usage})
        events = [{"choices": [{"delta": {"content": w}}]} for w in ("a", " b")] + [{"choices": [], "usage": usage}]
        if body["messages"][0]["content"][-1]["text"] == "break off":
            events[1] = {"error": {"message": "could not choose", "code": 500}}
        lines = [f"data: {json.dumps(e)}\n\n" for e in events] + ["data: [DONE]\n\n"]
        return self.answer(200, "".join(lines))

    def answer(self, status, what):
        text = (what if isinstance(what, str) else json.dumps(what)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(params=[True], ids=["prunes"])
def server(request):
    kind = type("Kind", (Counter,), {"prunes": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.seen, server.key = [], ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_the_first_answer_shows_whether_anything_is_pruned(server):
    assert "costs 25 tokens instead of 100" in launch.verdict(url(server), fixed=False)
    assert "costs 25 tokens" in launch.verdict(url(server), fixed=True)
    server.key = "secret"
    assert "costs 25 tokens" in launch.verdict(url(server), fixed=False, key="secret")


@pytest.mark.parametrize("server", [False], indirect=True, ids=["does not"])
def test_a_server_without_the_plugin_is_found_out(server):
    with pytest.raises(ModelError, match="nothing is pruned"):
        launch.verdict(url(server), fixed=False)


def test_answers_come_in_order_with_their_cost(server):
    picture = Image.new("RGB", (8, 8))
    asked = [Example(str(i), (picture,) * (i % 2), f"q{i}", ("a",)) for i in range(6)]
    replies = Served(url(server), "m").answer(asked, methods.divprune(keep=0.25), 5, concurrency=3)
    assert [r.prompt_tokens for r in replies] == [10, 35] * 3
    assert {r.text for r in replies} == {"a b"} and {r.new_tokens for r in replies} == {2}
    assert all(0 < r.first <= r.total for r in replies)
    assert [r.prompt_tokens for r in Served(url(server), "m").answer(asked)] == [10, 110] * 3, "no plan keeps all"
    assert all(b["max_tokens"] in (5, 64) and b["temperature"] == 0 for b in server.seen)


def test_a_stock_server_is_sent_nothing_of_ours(server):
    asked = [Example("0", (), "q", ("a",))]
    Served(url(server), "m", plans=False).answer(asked)
    assert "mm_processor_kwargs" not in server.seen[-1]
    with pytest.raises(FoveateError, match="started without a plan"):
        Served(url(server), "m", plans=False).answer(asked, methods.divprune(keep=0.25))


def test_what_the_server_says_instead_is_passed_on(server):
    with pytest.raises(FoveateError, match=r"400.*no such method"):
        launch.cost(url(server), {"foveate": "refuse"})
    with pytest.raises(FoveateError, match=r"breaks off.*could not choose"):
        Served(url(server), "m").answer([Example("0", (), "break off", ("a",))])
    with pytest.raises(FoveateError, match="no server at"):
        Served("http://127.0.0.1:9", "m").answer([Example("0", (), "q", ("a",))])


def test_a_server_that_dies_is_told_from_one_that_was_never_there(monkeypatch):
    monkeypatch.setattr(launch, "up", lambda *_: True)
    monkeypatch.setattr(launch.sys, "executable", "false")
    with pytest.raises(ModelError, match=r"vLLM ended by itself \(1\)"), launch.serving("m", None) as (address, _):
        Served(address, "m").answer([Example("0", (), "q", ("a",))])


def test_vllms_own_options_are_passed_on_and_overrides_joined(monkeypatch):
    monkeypatch.setattr(hook, "vllm_version", lambda: "0.32.1")
    words = launch.command("m", {"image_tokens": 9}, ["--port", "9", "--hf-overrides", '{"a": 1}', "--seed=0"])
    assert words[0] == sys.executable and "serve" in words and words[-3:] == ["--port", "9", "--seed=0"]
    assert json.loads(words[words.index("--hf-overrides") + 1]) == {"a": 1, "foveate": {"image_tokens": 9}}
    assert "--trust-request-mm-kwargs" in words
    assert "--trust-request-mm-kwargs" not in launch.command("m", "all", [], fixed=True)
    assert launch.option(words, "--port", "8000") == "9" and launch.option(words, "--host", "h") == "h"
    assert launch.option(["--port=7"], "--port", "8000") == "7"
    for host, at in [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fe80::1", "[fe80::1]"), ("box", "box")]:
        assert launch.address(["--host", host, "--port=9"]) == f"http://{at}:9"
    assert launch.address(["--ssl-certfile=c.pem"]) == "https://127.0.0.1:8000"
    assert launch.option(["--api_key", "k"], "--api-key", "") == "k"
    words = launch.command("m", "all", ['--hf_overrides={"a": 1}'])
    assert json.loads(words[-2]) == {"a": 1, "foveate": "all"} and not any("hf_overrides" in w for w in words)
    for wrong, says in [("={", "no JSON"), ("=[1]", r"\[1\]; it must be a JSON object"), (".a=1", "one JSON object")]:
        with pytest.raises(FoveateError, match=says):
            launch.command("m", "all", [f"--hf-overrides{wrong}"])
    monkeypatch.setattr(hook, "vllm_version", lambda: "0.99.0")
    with pytest.raises(ModelError, match="tested with"):
        launch.command("m", "all", [])
