"""One server over HTTP, started by `foveate serve`: what clients may ask, and that one's mistakes are its own."""

import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines_of_vllm import MODELS
from servers import body, post, serving

from foveate.tiny.examples import examples

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

PLAN = {"method": "divprune", "keep": 64}


BREAKS = 13
"""Tokens at which the method of `fragile` fails."""
FRAGILE = f"""
from dataclasses import dataclass

from foveate.cut import Cut
from foveate.methods.divprune import Farthest
from foveate.plan import Plan


@dataclass(frozen=True)
class Fragile(Farthest):
    def __call__(self, view, k):
        if k == {BREAKS}:
            raise RuntimeError("fragile")
        return super().__call__(view, k)


def fragile(keep):
    return Plan((Cut("input", Fragile(), keep),))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server whose method comes from a package beside Foveate, and fails at one count."""
    home = tmp_path_factory.mktemp("server")
    (home / "fragile.py").write_text(FRAGILE)
    (home / "fragile-1.dist-info").mkdir()
    (home / "fragile-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1\n")
    (home / "fragile-1.dist-info" / "entry_points.txt").write_text("[foveate.methods]\nfragile = fragile:fragile\n")
    log = home / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(home), prepend=os.pathsep)
        with serving(MODELS["llava"], log, "--method", "fragile", "--keep", "64", "--image-tokens", "200") as address:
            assert "costs 64 tokens instead of 200" in log.read_text()
            yield address


@pytest.fixture(scope="module")
def asked():
    return examples(range(6, 8))


def test_the_default_a_wish_and_the_servers_limit(url, asked):
    status, _, default = post(url, body(asked[0]))
    assert status == 200
    for plan, tokens in ((PLAN, 64), (PLAN | {"keep": 16}, 16), ("all", 200), (PLAN | {"image_tokens": 9}, 9),
                         (PLAN | {"keep": 400}, 200), ({"request_tokens": 30}, 30)):  # fmt: skip
        assert post(url, body(asked[0], plan))[::2] == (200, default - 64 + tokens), plan


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"method": "divprun", "keep": 8}, "did you mean 'divprune'"),
        ({"method": "fastv", "keep": 8}, "inside the LLM"),
        ({"method": "divprune", "keep": 0}, "at least 1"),
        ({"method": "os:system", "keep": 8}, "no method"),
        ({"method": "sts", "keep": 8, "path": "/etc"}, "only the server"),
        ({"method": "divprune", "keep": 8, "image_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(url, asked, plan, why):
    status, _, said = post(url, body(asked[0], plan))
    assert status == 400 and why in said


def test_a_choice_that_fails_is_an_error_of_its_own_request(url, asked):
    alone = post(url, body(asked[0]))
    good, bad = [body(e) for e in asked[:4]], [body(e, {"image_tokens": BREAKS}) for e in asked[:4]]
    with ThreadPoolExecutor(8) as pool:
        right, wrong = [pool.submit(post, url, b) for b in good], [pool.submit(post, url, b) for b in bad]
        assert [f.result()[0] for f in right] == [200] * 4
        assert [f.result()[0] for f in wrong] == [500] * 4, "what was said of the wrong tokens is not an answer"
    assert post(url, body(asked[0], {"image_tokens": BREAKS}))[0] == 500, "nor later"
    assert post(url, body(asked[0], {"image_tokens": BREAKS + 1}))[0] == 200
    assert post(url, body(asked[0])) == alone


def test_one_clients_mistakes_are_its_own(url, asked):
    """Refused, broken, abandoned and differently planned requests among good ones: each gets what it gets alone."""
    plans = [None, PLAN | {"keep": 32}, "all", {"method": "fastervlm", "keep": 64}]
    alone = [post(url, body(e, p)) for e, p in zip(asked[:4], plans, strict=True)]
    broken = body(asked[5])
    broken["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,AAAA"
    bad = [broken, body(asked[6], {"method": "nonsense", "keep": 8}), body(asked[7], {"method": "fastv", "keep": 8})]

    def abandon(example):
        data = json.dumps(body(example, PLAN | {"keep": 48}, max_tokens=300, ignore_eos=True, stream=True)).encode()
        request = urllib.request.Request(f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as reply:
            reply.read(1)

    with ThreadPoolExecutor(12) as pool:
        left = [pool.submit(abandon, e) for e in asked[8:10]]
        wrong = [pool.submit(post, url, b) for b in bad]
        right = [pool.submit(post, url, body(e, p)) for e, p in zip(asked[:4], plans, strict=True)]
        assert [f.result() for f in right] == alone
        assert all(400 <= f.result()[0] < 500 for f in wrong)
        for f in left:
            f.result()
    with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
        assert reply.status == 200
    assert [post(url, body(e, p)) for e, p in zip(asked[:4], plans, strict=True)] == alone
