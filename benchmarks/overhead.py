"""What an attachment costs beside the tokens it drops: two ratios, measured in one run on a 0.5B-class LLaVA shape.

    python benchmarks/overhead.py [--repeats 15] [--threads 1] [--dtype bfloat16] [--clock cpu] [--out DIR]

- keep=1.0: the attached model over the plain one. At most 1.02.
- an input cut to 64 of 576 tokens, selection time taken out, over the plain model given a prompt that never had the
  other tokens (the same tower, the same kept features). At most 1.05.

Weights are random: the shape alone sets the time. Runs are interleaved, ratios are taken pair by pair within a repeat,
and the median is reported with its quartiles. The clock is the CPU time of the process by
default, which other programs on the machine disturb least; --clock wall is the time on the wall.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

from foveate import attach
from foveate.methods import method

IMAGE, TEXT, STEPS = 151_000, 40, 4


def build(dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """Qwen2-0.5B's decoder behind a small CLIP tower of 24 x 24 patches, so that the decoder is what is timed."""
    tower = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    text = Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=151_936, tie_word_embeddings=True, use_sliding_window=False,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, tie_word_embeddings=True)
    model = LlavaForConditionalGeneration(config).to(dtype).eval()
    model.generation_config.eos_token_id = None
    return model


def timed(run, clock) -> float:
    start = clock()
    run()
    return clock() - start


def quartiles(x: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(x, n=4)
    return low, middle, high


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=["cpu", "wall"])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    model = build(dtype)
    base = model.model

    g = torch.Generator().manual_seed(0)
    text = torch.randint(0, 150_000, (TEXT,), generator=g)
    ids = torch.cat((text[:5], torch.full((576,), IMAGE), text[5:]))[None]
    pixels = torch.randn(1, 3, 336, 336, generator=g).to(dtype)
    inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}

    def steps(cache, length: int) -> None:
        """A few decoding steps, so that what decoding pays is in the ratio."""
        for i in range(STEPS):
            mask = torch.ones(1, length + i + 1, dtype=torch.long)
            model(input_ids=text[None, i : i + 1], attention_mask=mask, past_key_values=cache, logits_to_keep=1)

    def whole() -> None:
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        steps(out.past_key_values, ids.shape[1])

    plan = method("uniform", keep=64)
    with attach(model, plan) as attached:
        model(**inputs)
        kept = torch.tensor(attached.report.images[0].cuts[0].kept)
    alive = torch.ones(ids.shape[1], dtype=torch.bool)
    alive[5 : 5 + 576] = False
    alive[5 + kept] = True
    short = ids[:, alive]

    def never_sent() -> None:
        """The plain model on a prompt of the kept tokens: the same tower, then its kept features."""
        features = base.get_image_features(pixels, return_dict=True).pooler_output[0][kept]
        embeds = model.get_input_embeddings()(short.masked_fill(short == IMAGE, 0))
        embeds = embeds.masked_scatter((short == IMAGE)[..., None], features)
        mask = torch.ones_like(short)
        out = model(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1)
        steps(out.past_key_values, short.shape[1])

    full, cut = [], []
    for _ in range(2):
        whole(), never_sent()
    for _ in track(range(args.repeats), description="measuring"):
        plain = timed(whole, clock)
        with attach(model, method("uniform", keep=1.0)):
            full.append(timed(whole, clock) / plain)
        oracle = timed(never_sent, clock)
        with attach(model, plan) as attached:
            cut.append((timed(whole, clock) - attached.report.select_seconds) / oracle)

    rows = {
        "attached, keep=1.0 / plain": (full, 1.02),
        "input cut to 64 of 576, without selection / never sent": (cut, 1.05),
    }
    how = f"{args.dtype}, {args.threads} thread(s), {args.clock} time, {args.repeats} repeats, {STEPS} decoding steps"
    table = Table(title=f"Overhead: {how}")
    for name in ("ratio of times", "lower quartile", "median", "upper quartile", "limit"):
        table.add_column(name, justify="left" if name.startswith("ratio") else "right")
    options = " ".join(f"--{k} {v}" for k, v in vars(args).items() if k != "out")
    result = {
        "command": f"python benchmarks/overhead.py {options}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "ratios": {},
    }
    for name, (ratios, limit) in rows.items():
        low, middle, high = quartiles(ratios)
        table.add_row(name, f"{low:.3f}", f"{middle:.3f}", f"{high:.3f}", f"{limit:.2f}")
        result["ratios"][name] = {"quartiles": [low, middle, high], "limit": limit, "all": ratios}
    Console().print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "overhead.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(target)


if __name__ == "__main__":
    main()
