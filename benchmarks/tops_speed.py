"""TOPS's selection against the loop that recomputes its coverage at every step: same indices, a ratio of times.

    python benchmarks/tops_speed.py [--cases 576x128,2880x640,2880x1280] [--batches 1,8] [--threads 1] [--out DIR]

Both get the same features (a random walk over the grid, so that neighbours are alike, as in a picture) and the same
relevance, and both times hold everything from the features on, the similarity matrix too. The loop is as fast as plain
torch makes it: whole-matrix operations, float32 similarities, float64 sums. It runs once and whole; the shipped
selection is the median of several runs. The clock is the CPU time of the process by default, which other programs on
the machine disturb least; --clock wall is the time on the wall.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from math import isqrt
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from foveate import files
from foveate.ops.balance import balance
from foveate.ops.cosine import Cosine

ALPHA = LAM = 0.5


def inputs(batch: int, n: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features [B, N, D] of a random walk over a grid, and a relevance with a mild tail [B, N]."""
    g = torch.Generator().manual_seed(seed)
    rows = next(r for r in range(isqrt(n), 0, -1) if n % r == 0)
    x = torch.randn(batch, rows, n // rows, width, generator=g)
    return (x.cumsum(1) + x.cumsum(2)).flatten(1, 2), torch.rand(batch, n, generator=g) ** 4


def naive(x_BND: Tensor, relevance_BN: Tensor, k: int, normalise: str) -> Iterator[Tensor]:
    """Each image's picks, one step at a time, every criterion of every token worked out anew."""
    n = x_BND.shape[1]
    for x_ND, relevance_N in zip(x_BND, relevance_BN.double(), strict=True):
        similar_NN = Cosine(x_ND[None]).rows(torch.arange(n)[None])[0]
        pick = int(relevance_N.argmax())
        picks, shut_N = [pick], torch.zeros(n, dtype=torch.bool)
        best_N = similar_NN[pick].clone()
        while len(picks) < k:
            shut_N[pick] = True
            # max(0, s - m) summed is max(s, m) summed less m summed, and so written loses nothing in float32.
            reached_N = torch.maximum(similar_NN, best_N[:, None]).sum(0, dtype=torch.float64)
            coverage_N = reached_N - best_N.sum(dtype=torch.float64)
            score_N = torch.zeros(n, dtype=torch.float64)
            for weight, value_N in ((1.0, relevance_N), (ALPHA, 1 - best_N.double()), (LAM, coverage_N)):
                rest = value_N[~shut_N]
                if normalise == "mean":
                    score_N += weight * value_N / rest.mean()
                else:
                    score_N += weight * (value_N - rest.min()) / (rest.max() - rest.min())
            pick = int(score_N.masked_fill(shut_N, -torch.inf).argmax())
            picks.append(pick)
            best_N = torch.maximum(best_N, similar_NN[pick])
            yield torch.empty(0)
        yield torch.tensor(picks)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="576x128,2880x640,2880x1280")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--normalise", default="mean", choices=["mean", "minmax"])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=["cpu", "wall"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    args.out.mkdir(parents=True, exist_ok=True)

    options = " ".join(f"--{k} {v}" for k, v in vars(args).items() if k != "out")
    result = {
        "command": f"python benchmarks/tops_speed.py {options}",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cases": [],
    }
    table = Table(title=f"TOPS selection, {args.threads} thread(s), {args.clock} time, {args.normalise}")
    for name in ("N", "K", "batch", "naive s", "shipped ms", "ratio", "same indices"):
        table.add_column(name, justify="right")
    with Progress() as bar:
        for case in args.cases.split(","):
            n, k = map(int, case.split("x"))
            for batch in map(int, args.batches.split(",")):
                x, relevance = inputs(batch, n, args.width, n + k + batch)
                balance(x, relevance, min(k, 8), ALPHA, LAM, args.normalise)  # warm-up
                task = bar.add_task(f"{n}, {k}, batch {batch}", total=batch * k)
                times = []
                for _ in range(args.repeats):
                    start = clock()
                    picks = balance(x, relevance, k, ALPHA, LAM, args.normalise)
                    times.append(clock() - start)
                start, expected = clock(), []
                for done, out in enumerate(naive(x, relevance, k, args.normalise), 1):
                    if len(out):
                        expected.append(out)
                    if done % 16 == 0 or len(out):
                        bar.update(task, completed=done)
                slow, fast = clock() - start, statistics.median(times)
                same = bool(torch.equal(picks, torch.stack(expected)))
                result["cases"].append(
                    {"n": n, "k": k, "batch": batch, "naive_seconds": slow, "shipped_seconds": times,
                     "ratio": slow / fast, "identical": same}
                )  # fmt: skip
                files.write(args.out / "tops_speed.json", (json.dumps(result, indent=2) + "\n").encode())
                cells = (
                    n,
                    k,
                    batch,
                    f"{slow:.2f}",
                    f"{fast * 1e3:.1f}",
                    f"{slow / fast:.1f}x",
                    "yes" if same else "NO",
                )
                table.add_row(*map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    main()
