"""What attaching costs the host: CPU time of a prefill and of a decoded token, in 32 layers so narrow that it shows.

    python benchmarks/attach_cost.py [--repeats 16] [--out benchmarks/results]

A prompt of 576 visual tokens and 40 words. keep=1.0 and an input cut that drops one token leave a prefill the same
work, so what they add to the plain model's is attaching (and choosing at even steps). A decoded token is compared with
one of a plain model whose cache holds the same entries, so that nothing differs but the host's work; psigmoid cuts
before nearly every layer. Two models of the same weights take turns at every token, and change roles with every repeat.
CPU time of the thread; ratios are within repeats; medians with the sign test's 95 % interval, and quartiles. "entered"
is how many Python functions one token enters, a count; "in hooks" is the time spent in what is attached, with the
clock's own.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import CLIPVisionConfig, DynamicCache, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from foveate import Plan, attach, files
from foveate.bench.load import interval
from foveate.cut import Cut
from foveate.hf import hooks
from foveate.methods import method
from foveate.methods.uniform import Uniform

IMAGE, DEPTH, TEXT, TOKENS = 110, 32, 40, 42


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


def stock(cache: Any, config: Any) -> DynamicCache:
    """A plain cache of the same entries."""
    plain = DynamicCache(config=config)
    for i, layer in enumerate(cache.layers):
        plain.update(layer.keys.clone(), layer.values.clone(), i)
    return plain


def timed(call: Any) -> tuple[float, Any]:
    """CPU milliseconds, and what came back."""
    start = time.thread_time()
    out = call()
    return (time.thread_time() - start) * 1e3, out


class Decoding:
    """A prompt's cache, and the tokens after it."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.model, self.cache = model, cache
        self.mask = torch.ones(1, cache.get_seq_length(), dtype=torch.long)

    def __call__(self) -> None:
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), 1)
        ids = torch.full((1, 1), 5)
        self.model(input_ids=ids, attention_mask=self.mask, past_key_values=self.cache, logits_to_keep=1)

    def entered(self) -> int:
        """Python functions that one token enters."""
        calls = 0

        def note(_frame: Any, event: str, _argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(note)
        self()
        sys.setprofile(None)
        return calls


@torch.no_grad()
def once(models: list[Any], turn: int, inputs: dict[str, Any], plan: Plan | None) -> dict[str, float]:
    """What one model takes with a plan attached over what the other takes without; who is first takes turns too."""
    one, other = models[turn % 2], models[1 - turn % 2]
    with nullcontext() if plan is None else attach(one, plan):
        prefill = {}
        for model in (one, other) if turn // 2 % 2 else (other, one):
            prefill[model] = timed(lambda model=model: model(**inputs, use_cache=True, logits_to_keep=1))
        (pruned, out), (plain, _) = prefill[one], prefill[other]
        mine = Decoding(one, out.past_key_values)
        theirs = Decoding(other, stock(out.past_key_values, other.config.text_config))
        spent: dict[Any, list[float]] = {mine: [], theirs: []}
        for token in range(TOKENS):
            for way in (mine, theirs) if token % 2 else (theirs, mine):
                spent[way].append(timed(way)[0])
        mine_ms, theirs_ms = (statistics.median(spent[way][2:]) for way in (mine, theirs))
        return {
            "prefill, ms": pruned, "prefill / plain": pruned / plain, "token, ms": mine_ms,
            "token / plain": mine_ms / theirs_ms, "entered": mine.entered(), "entered, plain": theirs.entered(),
        }  # fmt: skip


@torch.no_grad()
def in_hooks(model: Any, inputs: dict[str, Any], plan: Plan) -> float:
    """CPU milliseconds of a token that are spent in hooks, median."""
    spent: list[float] = []

    def watched(hook: Any, inside: bool = False, make: Any = hooks.unseen) -> Any:
        made = make(hook, inside)

        def around(*args: Any, **kwargs: Any) -> Any:
            took, out = timed(lambda: made(*args, **kwargs))
            spent.append(took)
            return out

        return around

    with mock.patch.object(hooks, "unseen", watched), attach(model, plan):
        decode = Decoding(model, model(**inputs, use_cache=True, logits_to_keep=1).past_key_values)
        tokens = []
        for _ in range(TOKENS):
            spent.clear()
            decode()
            tokens.append(sum(spent))
    return statistics.median(tokens[2:])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    models = [build(), build()]
    ids = torch.tensor([[1, *range(3, 3 + TEXT // 2), *[IMAGE] * 576, *range(30, 30 + TEXT - TEXT // 2)]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 336, 336)}
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    plans = dict(ways())
    for turn in range(args.repeats + 1):
        for name, plan in plans.items():
            one = once(models, turn, inputs, plan)
            if turn:
                found[name].append(one)
    rows = {}
    for name, turns in found.items():
        rows[name] = {}
        for what in turns[0]:
            values = sorted(turn[what] for turn in turns)
            rows[name][what] = statistics.median(values)
            if what.endswith("/ plain"):
                rows[name][f"{what}, 95 %"] = interval(values)
                rows[name][f"{what}, quartiles"] = statistics.quantiles(values, n=4)
        if (plan := plans[name]) is not None:
            rows[name]["in hooks, ms"] = in_hooks(models[0], inputs, plan)
        print(name, json.dumps(rows[name], default=float))
    if args.out is not None:
        about = {"torch": torch.__version__, "transformers": transformers.__version__, "repeats": args.repeats}
        files.write(args.out / "attach_cost.json", (json.dumps(about | {"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
