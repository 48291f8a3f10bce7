"""Under pressure, in pieces and in parallel, an engine says what it says alone. FOVEATE_WAY picks one a process."""

import os

import pytest
from engines_of_vllm import MODELS, NAME, ask, make, said

from foveate.tiny.examples import examples

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")

WAY = os.environ.get("FOVEATE_WAY", "")
PLAN = {"method": "divprune", "keep": 1 / 9}
PLANS = [PLAN, {"method": "fastervlm", "keep": 0.25}, {"method": "divprune", "keep": 32}, "all",
         {"method": "cdpruner", "keep": 16}]  # fmt: skip
N = 10


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


@only("pressure")
def test_chunks_too_little_memory_and_an_abort(asked):
    from vllm import SamplingParams

    # Prompts in chunks of 40 tokens, images cut in the middle; blocks for few requests at once.
    llm = make(
        MODELS[NAME], max_num_batched_tokens=640 if NAME == "llava" else 160, enable_prefix_caching=False,
        long_prefill_token_threshold=40, num_gpu_blocks_override=34,
    )  # fmt: skip
    scheduler = core(llm).scheduler
    preempted, original = [], scheduler._preempt_request
    scheduler._preempt_request = lambda *a, **k: (preempted.append(1), original(*a, **k))[1]
    assert said(ask(llm, asked, plans())) == wanted(asked)
    pool = scheduler.kv_cache_manager.block_pool
    free = pool.get_num_free_blocks()
    long = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)
    from engines_of_vllm import prompt

    engine = llm.llm_engine
    for i, e in enumerate(asked[:8]):
        engine.add_request(f"r{i}", prompt(llm, e, PLAN), long)
    for _ in range(3):
        engine.step()
    engine.abort_request(["r1", "r3"])
    done = {}
    while engine.has_unfinished_requests():
        done |= {o.request_id: list(o.outputs[0].token_ids) for o in engine.step() if o.finished}
    assert preempted, "memory was too large to be short"
    assert pool.get_num_free_blocks() == free
    alone = [list(o.outputs[0].token_ids) for o in llm.generate(
        [prompt(llm, asked[i], PLAN) for i in (0, 2)], long, use_tqdm=False)]  # fmt: skip
    ours = {k.split("-")[0]: v for k, v in done.items()}
    assert [ours["r0"], ours["r2"]] == alone
    # Blocks a request takes: by formula of its pruned length.
    engine.add_request("one", prompt(llm, asked[0], PLAN), SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    tokens = len(ask(llm, asked[:1], PLAN, 1)[0].prompt_token_ids)
    assert tokens < 100


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
