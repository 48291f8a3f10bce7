"""What attaching costs the host: CPU time of a prefill and of a decoded token, in 32 layers so narrow that it shows.

    python benchmarks/attach_cost.py [--repeats 15] [--out benchmarks/results]

A prompt of 576 visual tokens and 40 words. "plain" is the model alone; keep=1.0 and an input cut that drops one token
leave it the same work, so what they add to a prefill is attaching (and choosing at even steps). A decoded token is
compared with the plain model's after the same prompt; psigmoid cuts before nearly every layer. Ways take turns within
each repeat; ratios are within repeats; medians with quartiles.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from foveate import Plan, attach, files
from foveate.cut import Cut
from foveate.methods import method
from foveate.methods.uniform import Uniform

IMAGE, DEPTH, TEXT, TOKENS = 110, 32, 40, 8


def build() -> Any:
    tower = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=120, hidden_size=64, intermediate_size=128, num_hidden_layers=DEPTH, num_attention_heads=4
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, image_seq_length=576)
    return LlavaForConditionalGeneration(config).eval()


def ways() -> Iterator[tuple[str, Plan | None]]:
    yield "plain", None
    yield "keep=1.0", method("uniform", keep=1.0)
    yield "input cut of one token", Plan((Cut("input", Uniform(), 575),))
    yield "input cut to 64", method("uniform", keep=64)
    yield "fastv to half", method("fastv", keep=0.5)
    yield "psigmoid to half", method("psigmoid", keep=0.5)


@torch.no_grad()
def once(model: Any, inputs: dict[str, Any], plan: Plan | None) -> tuple[float, float]:
    """CPU milliseconds of a prefill and of a decoded token."""
    with nullcontext() if plan is None else attach(model, plan):
        start = time.process_time()
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        prefill = time.process_time() - start
        cache, mask = out.past_key_values, inputs["attention_mask"]
        ids = out.logits[:, -1:].argmax(-1)
        spent = []
        for _ in range(TOKENS):
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
            start = time.process_time()
            model(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
            spent.append(time.process_time() - start)
    return prefill * 1e3, statistics.median(spent) * 1e3


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    model = build()
    ids = torch.tensor([[1, *range(3, 3 + TEXT // 2), *[IMAGE] * 576, *range(30, 30 + TEXT - TEXT // 2)]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 336, 336)}
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    plans = dict(ways())
    for _ in range(args.repeats + 1):
        for name, plan in plans.items():
            spent[name].append(once(model, inputs, plan))
    rows = {}
    for name, found in spent.items():
        pairs = list(zip(found[1:], spent["plain"][1:], strict=True))
        row = {f"{what}, ms": statistics.median(f[i] for f, _ in pairs) for i, what in enumerate(("prefill", "token"))}
        for i, what in enumerate(("prefill", "token")):
            row[f"{what} / plain"] = statistics.quantiles([f[i] / p[i] for f, p in pairs], n=4)
        rows[name] = row
        print(name, {k: [round(x, 3) for x in v] if isinstance(v, list) else round(v, 2) for k, v in row.items()})
    if args.out is not None:
        about = {"torch": torch.__version__, "transformers": transformers.__version__, "repeats": args.repeats}
        files.write(args.out / "attach_cost.json", (json.dumps(about | {"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
