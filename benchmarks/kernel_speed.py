"""The greedy kernels on a CPU: compiled, as torch loops, and as the papers' loops are written. Picks compared, ratios.

    python benchmarks/kernel_speed.py [--cases 576x64,576x128,2880x320] [--large 20000x2000] [--walks 576x64]
        [--width 256] [--out DIR]

One thread, CPU seconds of the process, median of several runs, all in one run. "loop" is the time apart from the
similarity matrix, which is made once and handed in; "matrix" is that; "whole" is a call from the features on. "torch"
is the loop that serves without numba. "paper" recomputes what the paper's loop recomputes: the distances to all picked
tokens, every gain, every residual row. The large case is measured against the loops as they were, without a matrix
above 8192 tokens. Walks are those of learned selectors, apart from their encoders ("scene"): the shipped one's
compiled, as torch's loop, and as that loop was in float32, on the instrument's test pictures for what is picked; of
the published recipe, which is torch's loop alone, what its matrix products take by themselves. Features are a random
walk over a grid: neighbours are alike, as in a picture. Rows that the file holds are not measured again.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from math import isqrt
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foveate import files, tiny
from foveate.ops import balance, cosine, coverage, farthest, residual, roads, suppress
from foveate.pointer import PointerSelector, StepwiseConfig, StepwiseSelector
from foveate.pointer.candidates import Candidates
from foveate.pointer.pointing import Pointing
from foveate.tiny.examples import examples

Call = Callable[[Tensor, Tensor, int], Tensor]
KERNELS: dict[str, Call] = {
    "farthest": lambda x, w, k: farthest.farthest(x, k),
    "balance (TOPS)": lambda x, w, k: balance.balance(x, w, k),
    "coverage": lambda x, w, k: coverage.coverage(x, k),
    "coverage, weighted": lambda x, w, k: coverage.coverage(x, k, w),
    "residual": lambda x, w, k: residual.residual(x, k),
    "suppress": lambda x, w, k: suppress.suppress(x, w, k, soften="square"),
}


PARTS = ("cases", "large", "walks")


def inputs(n: int, width: int) -> tuple[Tensor, Tensor]:
    """Features [1, N, D] and a relevance with a mild tail [1, N]."""
    g = torch.Generator().manual_seed(n)
    rows = next(r for r in range(isqrt(n), 0, -1) if n % r == 0)
    x = torch.randn(1, rows, n // rows, width, generator=g)
    return (x.cumsum(1) + x.cumsum(2)).flatten(1, 2), torch.rand(1, n, generator=g) ** 4


def paper(name: str, x_ND: Tensor, w_N: Tensor, k: int, similar_NN: Tensor) -> list[int]:
    """The loop as it is written down, in whole-tensor operations."""
    n = len(x_ND)
    if name == "farthest":
        distance_NN = 1 - similar_NN
        picks = [int((distance_NN + 9 * torch.eye(n)).amin(1).argmax())]
        while len(picks) < k:
            picks.append(int(distance_NN[picks].amin(0).index_fill(0, torch.tensor(picks), -1).argmax()))
        return picks
    shut_N, picks = torch.zeros(n, dtype=torch.bool), []
    best_N, rest_ND, score_N = torch.zeros(n), x_ND.double().clone(), w_N.double().clone()
    if name == "balance (TOPS)":
        picks = [int(w_N.argmax())]
        shut_N[picks], best_N = True, similar_NN[picks[0]].clone()
    while len(picks) < k:
        if name == "residual":
            value_N = rest_ND.square().sum(1)
        elif name == "suppress":
            value_N = score_N
        else:
            value_N = (similar_NN - best_N).clamp_(min=0) @ (w_N if "weighted" in name else torch.ones(n))
            if name == "balance (TOPS)":
                criteria = w_N.double(), 1 - best_N.double(), value_N.double()
                value_N = sum(c * s / c[~shut_N].mean() for c, s in zip(criteria, (1, 0.5, 0.5), strict=True))  # type: ignore[assignment]
        picks.append(int(value_N.masked_fill(shut_N, -torch.inf).argmax()))
        shut_N[picks[-1]] = True
        if name == "residual":
            axis_D = rest_ND[picks[-1]] / rest_ND[picks[-1]].norm()
            rest_ND -= torch.outer(rest_ND @ axis_D, axis_D)
        elif name == "suppress":
            score_N = score_N * (1 - similar_NN[picks[-1]].double().square())
        else:
            best_N = torch.maximum(best_N, similar_NN[picks[-1]])
    return picks


@contextmanager
def handed_in(x_BND: Tensor) -> Iterator[None]:
    """The matrix is made already, whoever asks for it."""
    unit_BND, similar = cosine.unit(x_BND), cosine.Cosine(x_BND, True)
    whole_NN = cosine.whole(unit_BND[0])
    with ExitStack() as stack:
        for module in (cosine, balance, coverage, suppress, farthest):
            for name, value in (("whole", whole_NN), ("unit", unit_BND), ("Cosine", similar)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, lambda *_, v=value: v))
        yield


@contextmanager
def as_before() -> Iterator[None]:
    """No matrix above the limit, and torch loops alone."""
    with roads.plain_torch(), mock.patch.object(cosine, "fits", lambda b, n, d: n <= cosine.GRAM_LIMIT):
        yield


def timed(call: Callable[[], Any], repeats: int, around: Callable[[], Any] = nullcontext) -> tuple[float, Any]:
    """Median CPU milliseconds, and the answer."""
    times = []
    with around():
        if repeats > 1:
            call()
        for _ in range(repeats):
            start = time.process_time()
            out = call()
            times.append((time.process_time() - start) * 1e3)
    return statistics.median(times), out


def case(n: int, k: int, width: int, repeats: int, known: set[str]) -> Iterator[dict[str, Any]]:
    x, w = inputs(n, width)
    unit_BND, similar_NN = cosine.unit(x), cosine.Cosine(x, True).rows(torch.arange(n)[None])[0]
    matrix, _ = timed(lambda: cosine.whole(unit_BND[0]), repeats)
    for name, kernel in KERNELS.items():
        if name in known:
            continue
        call = lambda kernel=kernel: kernel(x, w, k)  # noqa: E731
        with handed_in(x):
            loop, picks = timed(call, repeats)
            plain, plain_picks = timed(call, max(1, repeats // 2), roads.plain_torch)
        whole, _ = timed(call, repeats)
        written, expected = timed(lambda name=name: paper(name, x[0], w[0], k, similar_NN), 1)
        yield {"kernel": name, "n": n, "k": k, "loop_ms": loop, "torch_ms": plain, "paper_ms": written,
               "matrix_ms": matrix, "whole_ms": whole, "same_as_torch": torch.equal(picks, plain_picks),
               "shared_with_paper": len(set(picks[0].tolist()) & set(expected)) / k}  # fmt: skip


def large(n: int, k: int, width: int, known: set[str]) -> Iterator[dict[str, Any]]:
    x, w = inputs(n, width)
    unit_ND = cosine.unit(x)[0]
    for name in ("farthest", "balance (TOPS)"):
        if name in known:
            continue
        call = lambda name=name: KERNELS[name](x, w, k)  # noqa: E731
        whole, picks = timed(call, 1)
        pairs = farthest._isolation if name == "farthest" else cosine.whole
        apart, _ = timed(lambda pairs=pairs: pairs(unit_ND), 1)
        before, expected = timed(call, 1, as_before)
        yield {"kernel": name, "n": n, "k": k, "whole_ms": whole, "pairs_ms": apart, "before_ms": before,
               "same": len(set(picks[0].tolist()) & set(expected[0].tolist())) / k}  # fmt: skip


def in_float32() -> Any:
    """The walk's steps as they were."""
    return mock.patch.object(Pointing, "exact", lambda steps, *scene: (steps, *scene))


def pictures(count: int) -> dict[str, Any]:
    """On the instrument's test pictures: all tokens picked by each road, and the sets kept along the dial."""
    (model, processor), ours = tiny.load(), PointerSelector.from_pretrained("tiny")
    same, moved = 0, 0
    for example in examples(range(count), questions=1):
        pixels = processor.image_processor(example.images[0], return_tensors="pt")["pixel_values"]
        c = Candidates(model.get_image_features(pixels).pooler_output[0][None].float())
        n = c.tokens_BND.shape[1]
        compiled = ours._walk(c, n, None)
        with roads.plain_torch():
            same += torch.equal(compiled.order_BT, ours._walk(c, n, None).order_BT)
            with in_float32():
                before = ours._walk(c, n, None)
        for _, bias in ours.config.dial:
            one, other = (walk.mask(walk.standing(ours.config, bias), n) for walk in (compiled, before))
            moved += not torch.equal(one, other)
    return {"pictures": count, "same_as_torch": same, "sets": count * len(ours.config.dial), "moved": moved}


def walks(n: int, k: int, repeats: int, known: set[str]) -> Iterator[dict[str, Any]]:
    g = torch.Generator().manual_seed(n)
    if "shipped" not in known:
        ours = PointerSelector.from_pretrained("tiny")
        x_BND = torch.randn(1, n, ours.config.features, generator=g) * ours.encoder.std_D + ours.encoder.mean_D
        c = Candidates(x_BND)
        known_scene = ours.pointing.scene(c)
        scene, _ = timed(lambda: ours.pointing.scene(c), repeats)
        with mock.patch.object(Pointing, "scene", lambda *_: known_scene):
            walk = lambda: ours._walk(c, k, None).order_BT  # noqa: E731
            loop, picks = timed(walk, repeats)
            plain, plain_picks = timed(walk, repeats, roads.plain_torch)
            with in_float32():
                before, before_picks = timed(walk, repeats, roads.plain_torch)
        yield {"walk": "shipped", "n": n, "k": k, "loop_ms": loop, "torch_ms": plain, "float32_ms": before,
               "scene_ms": scene, "same_as_torch": torch.equal(picks, plain_picks),
               "same_as_float32": torch.equal(picks, before_picks)}  # fmt: skip
    if "shipped, on test pictures" not in known:
        yield {"walk": "shipped, on test pictures", "n": n, "k": k} | pictures(40)
    for width in (256, 1024):
        if f"published, {width} wide" in known:
            continue
        torch.manual_seed(0)
        published = StepwiseSelector(StepwiseConfig(width, 0, k / n)).eval()
        c = Candidates(torch.randn(1, n, width, generator=g))
        scene, _ = timed(lambda published=published, c=c: published.pointer.scene(c), repeats)
        whole, _ = timed(lambda published=published, c=c: published._walk(c, k, None), repeats)
        # A round's own: two square ones, and the keys of the memory.
        square, keys, row = torch.randn(2, width, width), torch.randn(n + 1, width), torch.randn(width)
        known_DD3 = torch.randn(width, 3 * width)

        def products(square=square, keys=keys, row=row, known_DD3=known_DD3) -> None:
            torch.cat((keys, row[None])) @ known_DD3
            for _ in range(k):
                square[0] @ row, square[1] @ row, keys @ row

        least, _ = timed(products, repeats)
        yield {"walk": f"published, {width} wide", "n": n, "k": k, "torch_ms": whole - scene, "products_ms": least,
               "scene_ms": scene}  # fmt: skip


def sizes(text: str) -> list[tuple[int, int]]:
    return [(int(n), int(k)) for n, k in (c.split("x") for c in text.split(",") if c)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="576x64,576x128,2880x320")
    parser.add_argument("--large", default="20000x2000")
    parser.add_argument("--walks", default="576x64")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kernel in KERNELS.values():
        kernel(*inputs(64, 8), 5)  # compiled once
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "kernel_speed.json"
    data: dict[str, Any] = {"command": "python benchmarks/kernel_speed.py", "torch": torch.__version__}
    data |= {"width": args.width, "machine": platform.machine()}
    old = json.loads(path.read_text()) if path.exists() else {}
    kept = {part: old.get(part, []) if old and {k: old.get(k) for k in data} == data else [] for part in PARTS}
    data |= kept
    for part in PARTS:
        for n, k in sizes(getattr(args, part)):
            known = {r.get("kernel", r.get("walk")) for r in data[part] if (r["n"], r["k"]) == (n, k)}
            make = {
                "cases": lambda n=n, k=k, known=known: case(n, k, args.width, args.repeats, known),
                "large": lambda n=n, k=k, known=known: large(n, k, args.width, known),
                "walks": lambda n=n, k=k, known=known: walks(n, k, args.repeats, known),
            }
            for row in make[part]():
                data[part].append(row)
                files.write(path, (json.dumps(data, indent=1) + "\n").encode())
    show(data)


def show(data: dict[str, Any]) -> None:
    table = Table(title=f"One thread, CPU ms, rows of {data['width']}")
    for column in "kernel,N,K,loop,torch loop,ratio,paper,ratio,matrix,whole,same picks".split(","):  # noqa: SIM905
        table.add_column(column, justify="right")
    for r in sorted(data["cases"], key=lambda r: (r["n"], r["k"], list(KERNELS).index(r["kernel"]))):
        table.add_row(r["kernel"], str(r["n"]), str(r["k"]), f"{r['loop_ms']:.2f}", f"{r['torch_ms']:.1f}",
                      f"{r['torch_ms'] / r['loop_ms']:.0f}x", f"{r['paper_ms']:.1f}",
                      f"{r['paper_ms'] / r['loop_ms']:.0f}x", f"{r['matrix_ms']:.1f}", f"{r['whole_ms']:.1f}",
                      "yes" if r["same_as_torch"] else "NO")  # fmt: skip
    for r in data["large"]:
        loop, before = r["whole_ms"] - r["pairs_ms"], r["before_ms"] - r["pairs_ms"]
        table.add_row(r["kernel"], str(r["n"]), str(r["k"]), f"{loop:.0f}", f"{before:.0f}", f"{before / loop:.0f}x",
                      "", "", f"{r['pairs_ms']:.0f}", f"{r['whole_ms']:.0f}", f"{r['same']:.3f}")  # fmt: skip
    Console(width=150).print(table)
    for r in data["walks"]:
        Console(width=150).print({k: round(v, 2) if isinstance(v, float) else v for k, v in r.items()})


if __name__ == "__main__":
    main()
