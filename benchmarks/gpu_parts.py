"""The measurements of `gpu.py`, each a small function that gives plain rows; no row depends on another."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor

import shapes
from foveate.bench.oracle import oracle
from foveate.bench.shape import entry_bytes, prefill_flops
from foveate.bench.timing import Runner, middle
from foveate.cut import Cut
from foveate.engines.loading import Engine
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.families import family
from foveate.ops import roads
from foveate.ops.balance import balance
from foveate.ops.coverage import coverage
from foveate.ops.farthest import farthest
from foveate.ops.residual import residual
from foveate.ops.suppress import suppress
from foveate.plan import Plan
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.selection import Selection, TokenView

KERNELS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "farthest": lambda x, w, k: farthest(x, k),
    "balance": lambda x, w, k: balance(x, w, k),
    "coverage": lambda x, w, k: coverage(x, k, value_BN=w),
    "residual": lambda x, w, k: residual(x, k),
    "suppress": lambda x, w, k: suppress(x, w, k, soften="square"),
}
POINTERS: dict[str, Callable[[int, float], Any]] = {
    "STS, groups of 4": lambda width, share: PointerSelector(PointerConfig(width, share, group=4, stop="none")),
    "STS, one by one": lambda width, share: PointerSelector(PointerConfig(width, share, group=1, stop="none")),
    "one-shot": lambda width, share: OneShotSelector(OneShotConfig(width, share)),
}
"""Selectors of random weights: what they weigh says nothing, what they take does."""


@dataclass(frozen=True)
class Given:
    """Evenly spaced tokens, known beforehand: what is left is the cost of everything but choosing."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        b, n = view.shape
        place_N = torch.arange(n, device=view.device)
        return Selection(((place_N * k) // n != ((place_N - 1) * k) // n).expand(b, n))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    """Median wall time, the queue empty before and after."""
    times = []
    for turn in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times += [(time.perf_counter() - start) * 1e3] * (turn >= 2)
    return median(times)


def busy(call: Callable[[], Any], device: str) -> dict[str, float | int]:
    """Milliseconds that kernels ran, and how many; of the processor where there is no GPU, which launches none."""
    if not device.startswith("cuda"):
        start = time.process_time()
        call()
        return {"busy_ms": (time.process_time() - start) * 1e3, "launches": 0}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        synchronise(device)
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return {"busy_ms": sum(e.device_time for e in events) / 1e3, "launches": len(events)}


def machine(device: str, small: bool, repeats: int) -> Iterator[dict[str, Any]]:
    """Per launch, per synchronisation, per node of a graph; rates of products and copies."""
    x, many = torch.zeros(8, device=device), 64 if small else 2000

    def launch(count: int) -> None:
        for _ in range(count):
            x.add_(1)

    yield {"what": "launch, us", "value": milliseconds(lambda: launch(many), device, repeats) / many * 1e3}
    yield {"what": "synchronisation, us", "value": milliseconds(lambda: [float(x[0]) for _ in range(many)], device,
                                                                repeats) / many * 1e3}  # fmt: skip
    if device.startswith("cuda"):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch(many)
        yield {"what": "graph node, us", "value": milliseconds(graph.replay, device, repeats) / many * 1e3}
    wide, deep = (64, 96) if small else (4096, 11008)
    weight = torch.randn(deep, wide, device=device, dtype=torch.bfloat16)
    for rows in (104, 616):
        a = torch.randn(rows, wide, device=device, dtype=torch.bfloat16)
        ms = milliseconds(lambda a=a: a @ weight.mT, device, repeats)
        yield {"what": f"product of {rows} rows, TFLOP/s", "value": 2 * rows * wide * deep / ms / 1e9}
    blank = torch.empty(1 << (16 if small else 30), dtype=torch.uint8, device=device)
    ms = milliseconds(blank.clone, device, repeats)
    yield {"what": "copy, GB/s read and written", "value": 2 * blank.numel() / ms / 1e6}


def features(batch: int, n: int, width: int, device: str) -> tuple[Tensor, Tensor]:
    """A walk in feature space, so that neighbours are alike, in bfloat16; and a relevance."""
    g = torch.Generator().manual_seed(n)
    x = torch.randn(batch, n, width, generator=g).cumsum(1) / n**0.5 + torch.randn(batch, n, width, generator=g)
    return x.bfloat16().to(device), (torch.rand(batch, n, generator=g) ** 4).to(device)


def pointers(n: int, k: int, width: int, batch: int) -> dict[str, Callable[[Tensor, Tensor, int], Tensor]]:
    """Selections by learned selectors, as the kernels are called; 40 words ask."""
    words_BTD = torch.randn(batch, 40, width, generator=torch.Generator().manual_seed(0))

    def picked(selector: Any, x: Tensor, _: Tensor, k: int) -> Tensor:
        view = TokenView(hidden_BND=x, text_BTD=words_BTD.to(x))
        keep_BN = selector.to(x.device)(view, k).keep_BN
        return keep_BN.byte().sort(dim=1, descending=True, stable=True).indices[:, :k]

    torch.manual_seed(0)
    return {name: partial(picked, make(width, k / n).eval()) for name, make in POINTERS.items()}


def kernel_rows(n: int, k: int, width: int, batch: int, device: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Each kernel's time by either road, and the share of picks that a processor makes too."""
    x, w = features(batch, n, width, device)
    for name, kernel in {**KERNELS, **pointers(n, k, width, batch)}.items():
        call = partial(kernel, x, w, k)
        row: dict[str, Any] = {
            "kernel": name,
            "n": n,
            "k": k,
            "batch": batch,
            "ms": milliseconds(call, device, repeats),
        }
        with roads.plain_torch():
            row["torch_ms"] = milliseconds(call, device, max(1, repeats // 4))
        found, expected = call().cpu(), kernel(x.cpu(), w.cpu(), k)
        same = [len(set(a) & set(b)) / k for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
        yield row | {"shared": min(same), "same_order": torch.equal(found, expected)}


def answers(
    engine: Engine, shape: str, batch: int, plans: dict[str, Plan | str], device: str, repeats: int, length: int
) -> Iterator[dict[str, Any]]:
    """All ways of answering in turn: plain, every plan, and every plan's oracle that was never sent the tokens."""
    prompt = shapes.prompt(engine, shape, batch)
    runners = {"plain": Runner(partial(dict, prompt.inputs))}
    failed = {}
    for name, plan in plans.items():
        if isinstance(plan, str):
            failed[name] = plan
            continue
        runners[name] = Runner(partial(dict, prompt.inputs), plan, prompt.tail)
        try:
            runners[name].run(engine, 1, count=False)
        except FoveateError as error:
            failed[name] = str(error)
            del runners[name]
            continue
        report = runners[name].report
        assert report is not None
        runners[f"{name}: never sent"] = Runner(oracle(engine, prompt, report).encode)
    names = list(runners)
    for turn in range(repeats + 1):
        first = turn * 7 % len(names)
        for name in names[first:] + names[:first]:
            runners[name].run(engine, length, count=turn >= 1)
    lengths = prompt.inputs["attention_mask"].sum(1).tolist()
    visual = int((prompt.inputs["input_ids"] == engine.model.config.image_token_id).sum())
    depth, entry = engine.facts.depth, entry_bytes(engine.model)
    for name, runner in runners.items():
        floor = runners.get(f"{name}: never sent")
        row: dict[str, Any] = {"shape": shape, "batch": batch, "way": name}
        row |= {f"{p}_ms": middle(runner, p) * 1e3 for p in ("encode", "select", "prefill", "decode", "first_token")}
        row["tokens_per_s"] = batch * (length - 1) / max(middle(runner, "decode"), 1e-9)
        row["peak_gib"] = max(runner.peaks) / 2**30 if runner.peaks else None
        row["speedup"] = median(
            a.first_token / b.first_token for a, b in zip(runners["plain"].times, runner.times, strict=True)
        )
        row["over_oracle"] = floor and median(
            (a.prefill + a.select) / b.prefill for a, b in zip(runner.times, floor.times, strict=True)
        )
        if floor or name == "plain":
            held = runner.report.cache_tokens if runner.report else sum(lengths) * depth
            row["kv_mib_a_row"] = held * (entry or 0) / batch / 2**20
            flops = prefill_flops(engine.model, lengths, visual, runner.report, depth)
            row["prefill_tflop_a_row"] = (flops or 0) / 1e12
        yield row | busy(partial(_once, engine, runner), device)
    for name, why in failed.items():
        yield {"shape": shape, "batch": batch, "way": name, "failed": why}


def _once(engine: Engine, runner: Runner) -> None:
    with attach(engine.model, runner.plan, tail=runner.tail) if runner.plan else nullcontext(), torch.inference_mode():
        engine.model.generate(**runner.arguments(), max_new_tokens=1, do_sample=False)


def fuse(engine: Engine, backend: str = "inductor") -> None:
    """Compile the decoder's norms and MLPs, one program a kind for all lengths: a third of a layer's launches go.

    What attaches keeps working, as its hooks are on layers and projections. Plain and pruned run on the same model.
    """
    for module in family(engine.model).language_model(engine.model).modules():
        if type(module).__name__.endswith(("RMSNorm", "MLP")):
            module.forward = torch.compile(module.forward, dynamic=True, backend=backend)


def ways(build: Callable[[str, str], Plan], methods: list[str], keeps: list[str]) -> dict[str, Plan | str]:
    """The plans of one table, or why there is none: two that show what we add, and the methods."""
    plans: dict[str, Plan | str] = {
        "one token": Plan((Cut("input", Given(), 1),)),
        f"given@{keeps[0]}": Plan((Cut("input", Given(), float(keeps[0])),)),
    }
    for keep in keeps:
        for name in methods:
            try:
                plans[f"{name}@{keep}"] = build(name, keep)
            except FoveateError as error:
                plans[f"{name}@{keep}"] = str(error)
    return plans
