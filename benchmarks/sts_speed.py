"""What choosing costs: one selection for one image, and prefill with selection on a larger shape.

    python benchmarks/sts_speed.py --groups --repeats 15
    python benchmarks/sts_speed.py --reading --repeats 15
    python benchmarks/sts_speed.py [--shape 0.5b] [--device cpu] [--dtype bfloat16] [--repeats 7] [--group 4]

The last measures prefill of the plain model over prefill with the pointer's selection in it, selection included, with
random weights: the shape alone sets the time. `--shape 7b` is LLaVA-1.5-7B's, for a GPU. The pointer keeps 64 of 576.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from foveate import attach, files
from foveate.bench import environment
from foveate.cut import Cut
from foveate.methods import method
from foveate.plan import Plan
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.selection import TokenView


def timed(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds on the wall."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def selections(ways: dict[str, Any], seen: Sequence[TokenView], room: float, images: int = 24) -> dict[str, Any]:
    """Median milliseconds of one selection for one image: pointer, one-shot, farthest points."""
    singles = [TokenView(hidden_BND=v.hidden_BND[b : b + 1]) for v in seen[:2] for b in range(len(v.hidden_BND))]
    out: dict[str, Any] = {}
    for budget, (k, pointer, oneshot) in ways.items():
        rivals: dict[str, tuple[Any, int]] = {"farthest": (method("divprune", keep=k).cuts[0].select, k)}
        if pointer is not None:
            rivals["pointer"] = (pointer, int(room * k + 0.5))
        if oneshot is not None:
            rivals["one shot"] = (oneshot, k)
        taken: dict[str, list[float]] = {name: [] for name in rivals}
        for view in singles[:images]:
            for name, (select, most) in rivals.items():
                select(view, most)
                taken[name].append(1e3 * timed(lambda s=select, v=view, m=most: s(v, m)))
        out[budget] = {name: statistics.median(t) for name, t in taken.items()}
    return out


def build(shape: str, device: str, dtype: torch.dtype) -> Any:
    """A LLaVA of this shape with random weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    if shape == "0.5b":
        from overhead import build as small

        return small(dtype).to(device)
    tower = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14,
    )  # fmt: skip
    with torch.device(device):
        config = LlavaConfig(vision_config=tower, text_config=LlamaConfig(vocab_size=32064), image_token_id=32000)
        torch.set_default_dtype(dtype)
        model = LlavaForConditionalGeneration(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


@torch.no_grad()
def prefill(shape: str, device: str, dtype: torch.dtype, repeats: int, group: int) -> dict[str, Any]:
    """Seconds of the language model's prefill, plain and with a pointer before it; ratios are taken pair by pair."""
    model = build(shape, device, dtype)
    text = model.config.get_text_config()
    image, g = model.config.image_token_id, torch.Generator().manual_seed(0)
    words = torch.randint(5, 30_000, (40,), generator=g)
    ids = torch.cat((words[:5], torch.full((576,), image), words[5:]))[None].to(device)
    pixels = torch.randn(1, 3, 336, 336, generator=g).to(device, dtype)
    pointer = PointerSelector(PointerConfig(text.hidden_size, 64 / 576, group=group, stop="none")).eval()
    scorer = OneShotSelector(OneShotConfig(text.hidden_size, 64 / 576)).eval()
    marks: list[float] = []

    def stamp(*_: object) -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    def run(select: Any) -> float:
        marks.clear()
        attached = attach(model, Plan((Cut("input", select, 64),))) if select is not None else None
        # First of the hooks on the way in, last on the way out: choosing is inside.
        hooks = [
            model.model.language_model.register_forward_pre_hook(stamp, prepend=True),
            model.model.language_model.register_forward_hook(stamp),
        ]
        try:
            model(input_ids=ids, pixel_values=pixels, use_cache=True, logits_to_keep=1)
        finally:
            for hook in hooks:
                hook.remove()
            if attached is not None:
                attached.detach()
        return marks[1] - marks[0]

    rows: dict[str, list[float]] = {"plain": [], "pointer": [], "one shot": []}
    for turn in range(repeats + 1):
        for name, select in (("plain", None), ("pointer", pointer), ("one shot", scorer)):
            taken = run(select)
            if turn:
                rows[name].append(taken)
    view = TokenView(hidden_BND=torch.randn(1, 576, text.hidden_size, generator=g).to(device, dtype))
    alone = statistics.median(timed(lambda: pointer(view, 64), device) for _ in range(repeats + 1))
    ratios = {n: [p / t for p, t in zip(rows["plain"], rows[n], strict=True)] for n in ("pointer", "one shot")}
    return {
        "seconds": {n: statistics.median(t) for n, t in rows.items()},
        "selection_seconds": alone,
        "ratio": {n: statistics.quantiles(r, n=4) for n, r in ratios.items()},
        "shape": shape, "device": device, "dtype": str(dtype), "repeats": repeats, "group": group,
        "hardware": environment.hardware(torch.device(device)),
    }  # fmt: skip


def groups(repeats: int, k: int = 64) -> dict[str, dict[str, float]]:
    """One selection of k of 576 tokens of the embedded model's widths over the one-shot scorer's, median over turns.

    Random weights, no stop: every selector goes all the way.
    """
    g = torch.Generator().manual_seed(0)
    early = TokenView(hidden_BND=torch.randn(1, 576, 192, generator=g), text_BTD=torch.randn(1, 8, 256, generator=g))
    late = TokenView(hidden_BND=torch.randn(1, 576, 256, generator=g))
    scorer = OneShotSelector(OneShotConfig(256, k / 576)).eval()
    ratios: dict[str, dict[str, float]] = {"published": {}, "coverage": {}}
    for size in (1, 2, 4, 5, 8, 16):
        published = StepwiseSelector(StepwiseConfig(192, 256, k / 576, group=size)).eval()
        ours = PointerSelector(PointerConfig(256, k / 576, group=size)).eval()
        runs = {"published": lambda s=published: s.walk(early, k), "coverage": lambda s=ours: s.walk(late, k)}
        for name, run in runs.items():
            pairs = [(timed(run), timed(lambda: scorer(late, k))) for _ in range(repeats + 1)][1:]
            ratios[name][str(size)] = statistics.median(a / b for a, b in pairs)
    return ratios


def reading(repeats: int) -> dict[str, dict[str, float]]:
    """One selection by a selector that reads eight words over one by a blind one, median over turns, by N x width.

    As both are trained (`PointerConfig.reading`, and `PointerConfig` without). A ninth of the tokens stays.
    """
    g = torch.Generator().manual_seed(0)
    out: dict[str, dict[str, float]] = {}
    for n, d in ((144, 576), (576, 256), (576, 4096)):
        view = TokenView(hidden_BND=torch.randn(1, n, d, generator=g), text_BTD=torch.randn(1, 8, d, generator=g))
        blind = PointerSelector(PointerConfig(d, 1 / 9, group=4)).eval()
        reads = PointerSelector(PointerConfig.reading(d, 1 / 9, group=4)).eval()
        runs = [partial(s.walk, view, n // 9) for s in (reads, blind)]
        pairs = [[timed(run) for run in runs] for _ in range(repeats + 1)][1:]
        ratio, alone = (statistics.median(x) for x in ([a / b for a, b in pairs], [1e3 * b for _, b in pairs]))
        out[f"{n}x{d}"] = {"ratio": round(ratio, 2), "blind, ms": round(alone, 2)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.5b", choices=["0.5b", "7b"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--groups", action="store_true", help="one selection instead, in groups of 1 to 16")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--reading", action="store_true", help="one selection instead, with the question over without")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.groups:
        print(json.dumps(groups(args.repeats), indent=1))
        return
    if args.reading:
        found = json.dumps(reading(args.repeats), indent=1)
        print(found)
        files.write(args.out / "sts_reading_speed.json", (found + "\n").encode())
        return
    result = prefill(args.shape, args.device, getattr(torch, args.dtype), args.repeats, args.group)
    print(json.dumps(result, indent=1))
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"sts_prefill_{args.shape}_{args.device.split(':')[0]}.json"
    files.write(args.out / name, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
