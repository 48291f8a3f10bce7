"""Engines of vLLM for tests: small, in this process, and asked in one line."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Before vLLM is imported: one process, small, quiet, and nothing from the network.
os.environ.update(
    OMP_NUM_THREADS="1", VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_OMP_THREADS_BIND="nobind",
)  # fmt: skip
MODELS = {"llava": ROOT / "src/foveate/tiny/checkpoint", "qwen2_5_vl": ROOT / "instruments/qwen2_5_vl"}

NAME = os.environ.get("FOVEATE_MODEL", "llava")


def make(model, **changes):
    """An engine of this model."""
    from vllm import LLM

    options = dict(
        model=os.fspath(model), dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=16, block_size=32,
        distributed_executor_backend="uni", disable_log_stats=True, limit_mm_per_prompt={"image": 2}, seed=0,
        hf_overrides={"foveate": {"method": "divprune", "keep": 1 / 9}},
    )  # fmt: skip
    return LLM(**options | changes)


def prompt(llm, example, plan=None):
    """An example through the chat template, with the start token that the instruments' templates leave out."""
    words = llm.get_tokenizer()
    parts = [*({"type": "image"} for _ in example.images), {"type": "text", "text": example.question}]
    text = words.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False)
    out = {"prompt_token_ids": words(text)["input_ids"], "multi_modal_data": {"image": list(example.pictures())}}
    return out if plan is None else out | {"mm_processor_kwargs": {"foveate": plan}}


def ask(llm, examples, plan=None, tokens=8, ignore_eos=False):
    """Greedy answers to examples in one batch; a list of plans gives each its own."""
    from vllm import SamplingParams

    plans = plan if isinstance(plan, list) else [plan] * len(examples)
    wish = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=ignore_eos)
    prompts = [prompt(llm, e, p) for e, p in zip(examples, plans, strict=True)]
    return llm.generate(prompts, wish, use_tqdm=False)


def said(outputs):
    return [o.outputs[0].text.strip() for o in outputs]


def same(got, wanted):
    """Equal words; only where Hugging Face itself hardly tells its two first choices apart may they differ."""
    for words, one in zip(said(got), wanted, strict=True):
        top = one.first_V.topk(2).values
        assert words == one.text or top[0] - top[1] < 1e-4, (words, one.text, top)
