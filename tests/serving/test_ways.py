"""Under pressure, in pieces and in parallel, an engine says what it says alone. FOVEATE_WAY picks one a process."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines_of_vllm import MODELS, NAME, ask, make, prompt, said

from foveate.tiny.examples import examples

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

WAY = os.environ.get("FOVEATE_WAY", "")
PLAN = {"method": "divprune", "keep": 1 / 9}
PLANS = [PLAN, {"method": "fastervlm", "keep": 0.25}, {"method": "divprune", "keep": 32}, "all",
         {"method": "cdpruner", "keep": 16}]  # fmt: skip
N = 10
CHUNK = 40 if NAME == "llava" else 16
"""Tokens: less than the pruned prompts have, so images are cut in the middle."""


@pytest.fixture(scope="module")
def asked():
    return examples(range(2))[:N]


def wanted(asked):
    """What Hugging Face says, example by example. Asked after vLLM started."""
    from foveate import methods
    from foveate.engines import hf
    from foveate.engines.score import answer

    engine = hf.load(os.fspath(MODELS[NAME]), "cpu", "float32")
    made = [None if p == "all" else methods.method(p["method"], keep=p["keep"]) for p in PLANS]
    return [answer(engine, [e], made[i % 5], 8)[0].text for i, e in enumerate(asked)]


def plans():
    return [PLANS[i % 5] for i in range(N)]


def only(way):
    return pytest.mark.skipif(way != WAY, reason=f"FOVEATE_WAY is not {way}")


def core(llm):
    return llm.llm_engine.engine_core.engine_core


@pytest.fixture(scope="module")
def short_of_memory():
    """Prompts in chunks, and blocks for few requests at once."""
    return make(
        MODELS[NAME], max_num_batched_tokens=640 if NAME == "llava" else 160, enable_prefix_caching=False,
        long_prefill_token_threshold=CHUNK, num_gpu_blocks_override=34,
    )  # fmt: skip


def add(llm, name, example, plan, tokens):
    """One request of exactly so many tokens, not run yet."""
    from vllm import SamplingParams

    wish = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    llm.llm_engine.add_request(name, prompt(llm, example, plan), wish)


def finish(llm, each=lambda: None):
    """Run until nothing is left: the ids of each answer, by the name it was asked under."""
    done = {}
    while llm.llm_engine.has_unfinished_requests():
        done |= {o.request_id: list(o.outputs[0].token_ids) for o in llm.llm_engine.step() if o.finished}
        each()
    return done


def noted(monkeypatch, owner, name, note):
    """Call `note` with what a method returns, each time."""
    original = getattr(owner, name)

    def method(*args, **kwargs):
        out = original(*args, **kwargs)
        note(out)
        return out

    monkeypatch.setattr(owner, name, method)


@only("pressure")
def test_chunks_too_little_memory_and_aborts_change_no_answer(short_of_memory, asked, monkeypatch):
    llm = short_of_memory
    scheduler, chunks, preempted = core(llm).scheduler, [], []
    noted(monkeypatch, scheduler, "schedule", lambda out: chunks.extend(out.num_scheduled_tokens.values()))
    noted(monkeypatch, scheduler, "_preempt_request", preempted.append)
    assert said(ask(llm, asked, plans())) == wanted(asked)
    # A request that is alone takes the whole budget.
    assert chunks.count(CHUNK) > N, "prompts were not cut"
    pool = scheduler.kv_cache_manager.block_pool
    free = pool.get_num_free_blocks()
    for i, e in enumerate(asked):
        add(llm, f"r{i}", e, PLAN, 120)
    for _ in range(3):
        llm.llm_engine.step()
    llm.llm_engine.abort_request(["r1", "r3"])
    done = finish(llm)
    assert preempted, "memory was too large to be short"
    left = [i for i in range(N) if i not in (1, 3)]
    assert sorted(done) == [f"r{i}" for i in left]
    assert pool.get_num_free_blocks() == free
    for i in left:
        add(llm, "alone", asked[i], PLAN, 120)
        assert finish(llm)["alone"] == done[f"r{i}"], i


@only("pressure")
@pytest.mark.parametrize("plan", [PLAN, PLAN | {"keep": 16}, "all"], ids=["ninth", "16", "all"])
def test_a_request_takes_the_blocks_of_what_it_keeps(short_of_memory, asked, plan):
    llm, new = short_of_memory, 40
    pool, held = core(llm).scheduler.kv_cache_manager.block_pool, []
    free = pool.get_num_free_blocks()
    add(llm, "one", asked[0], plan, new)
    (request,) = core(llm).scheduler.requests.values()
    tokens = request.num_prompt_tokens
    finish(llm, lambda: held.append(free - pool.get_num_free_blocks()))
    # The last token is said and not looked at again.
    assert max(held) == -(-(tokens + new - 1) // llm.llm_engine.vllm_config.cache_config.block_size)
    assert held[-1] == 0


@only("inert")
def test_without_a_plan_it_is_the_stock_model(asked):
    from foveate.engines import hf
    from foveate.engines.score import answer

    llm = make(MODELS[NAME], hf_overrides={})
    kind = type(core(llm).model_executor.driver_worker.worker.model_runner.get_model())
    assert kind.__module__.startswith("vllm.")
    assert not hasattr(llm.llm_engine.model_config.hf_config, "foveate_served")
    engine = hf.load(os.fspath(MODELS[NAME]), "cpu", "float32")
    assert said(ask(llm, asked)) == [answer(engine, [e], None, 8)[0].text for e in asked]


@only("mutation")
def test_places_decide(asked, monkeypatch):
    from foveate.engines.vllm import worker

    llm = make(MODELS[NAME], enable_prefix_caching=False)
    right = wanted(asked)
    assert said(ask(llm, asked, plans())) == right
    monkeypatch.setattr(worker, "decode", lambda digits: 0 * digits.long()[:, :3])
    assert said(ask(llm, asked, plans())) != right, "with all places lost, some answer must change"


@only("tp2")
def test_two_ranks_choose_as_one(asked):
    llm = make(MODELS[NAME], tensor_parallel_size=2, distributed_executor_backend="mp")
    assert said(ask(llm, asked, plans())) == wanted(asked)


@only("pp2")
def test_places_reach_the_second_stage(asked):
    llm = make(
        MODELS[NAME], pipeline_parallel_size=2, distributed_executor_backend="mp", enforce_eager=False,
        compilation_config={"mode": 1, "backend": "eager"},
    )  # fmt: skip
    assert said(ask(llm, asked, plans())) == wanted(asked)


def over_http(url, asked):
    """All at once: answers as they are everywhere else, with as many prompt tokens as the plan leaves."""
    from servers import body, post

    with ThreadPoolExecutor(N) as pool:
        got = list(pool.map(post, [url] * N, [body(e, p) for e, p in zip(asked, plans(), strict=True)]))
    assert [status for status, _, _ in got] == [200] * N, got
    assert [words.strip() for _, words, _ in got] == wanted(asked)


@only("dp2")
def test_two_engines_share_the_work(asked, tmp_path):
    from servers import answered, serving

    with serving(MODELS[NAME], tmp_path / "log", "--keep", "0.111", "--data-parallel-size", "2") as url:
        over_http(url, asked)
        work = answered(url)
    assert len(work) == 2 and min(work.values()) > 0, work


@only("nodes")
def test_two_nodes_answer_as_one(asked, tmp_path):
    from servers import free_port, serving, start, stop

    # Two machines, but for their address; the second has no front end.
    both = ("--keep", "0.111", "--tensor-parallel-size", "2", "--nnodes", "2", "--master-addr", "127.0.0.1",
            "--master-port", str(free_port()))  # fmt: skip
    second = start(MODELS[NAME], tmp_path / "second", *both, "--node-rank", "1", "--headless")
    try:
        with serving(MODELS[NAME], tmp_path / "first", *both, "--node-rank", "0") as url:
            over_http(url, asked)
            assert second.poll() is None, (tmp_path / "second").read_text()[-3000:]
    finally:
        stop(second)
