"""What pruning buys on a GPU, and what it costs: one file of figures and one table, in about ten minutes.

    python benchmarks/gpu.py                                    # an NVIDIA GPU of 40 GiB or more
    python benchmarks/gpu.py --fuse                             # the same with a lower floor, for all ways alike
    python benchmarks/gpu.py --tiny --device cpu --out out/try  # does the script run at all? The figures say nothing

LLaVA-1.5-7B at 576 and at 2,916 tokens and Qwen2.5-VL-7B at 1,296 and 4,000, random weights, bfloat16 (what sets the
time is all there). The parts, in order: the machine (a launch, a synchronisation, a graph's node, products, copies);
kernels against the picks of a processor; answers: all ways in turn within each repeat, medians and ratios within it.
"plain" drops nothing; "one token" and "given" choose nothing, so what they add is everything but choosing; "never sent"
is the plain model given a prompt without the dropped tokens, and the floor of its way. Wall time, and the time that
kernels ran (busy): where the two differ, launching is what is paid for.

Rows are written as they come, with the command, the card, the versions and the commit. A second call measures only what
the file lacks, unless versions, card or settings are others; --anew measures everything.
NOT YET RUN ON A GPU.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import gpu_parts as parts
import shapes
from foveate import files
from foveate.bench import environment
from foveate.cli import choose

SETTINGS: dict[str, dict[str, Any]] = {"tops": {"transform": "rank"}}
"""[CLS] attention of random weights says nothing; TOPS gets the transform that its docstring advises for real ones."""
SELECTIONS = "576x64,576x128,2880x320,4000x444"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llava-1.5-7b,llava-1.5-7b-large,qwen2.5-vl-7b,qwen2.5-vl-7b-large")
    parser.add_argument("--method", default="fastervlm,divprune,tops,fastv,pyramiddrop")
    parser.add_argument("--keep", default="0.111")
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--selections", default=SELECTIONS, help="tokens x kept, of the kernels")
    parser.add_argument("--width", type=int, default=4096, help="of the tokens that kernels choose among")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--length", type=int, default=64, help="tokens of every answer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes for a trial")
    parser.add_argument("--fuse", action="store_true", help="compile norms and MLPs; a file of its own")
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="a folder")
    args = parser.parse_args(words)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny --device cpu tries the script")
    if args.tiny:
        args.shape, args.batch_sizes, args.selections = "llava-smoke", "2", "24x5"
        args.width, args.repeats, args.length = 16, 1, 3
    card = torch.cuda.get_device_name(args.device).replace(" ", "-") if args.device.startswith("cuda") else "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    book = Book(args.out / f"gpu-{card}{'-fused' * args.fuse}.json", args)
    book.part("machine", partial(parts.machine, args.device, args.tiny, args.repeats))
    batches = [int(b) for b in args.batch_sizes.split(",")]
    for n, k in (map(int, s.split("x")) for s in args.selections.split(",")):
        for batch in batches:
            measure = partial(parts.kernel_rows, n, k, args.width, batch, args.device, args.repeats)
            book.part(f"kernels {n}x{k}x{batch}", measure)
    for shape in args.shape.split(","):
        wanted = [b for b in batches if not book.has(f"answers {shape}x{b}")]
        if not wanted:
            continue
        engine = shapes.build(shape, args.device, torch.bfloat16)
        if args.fuse:
            parts.fuse(engine)
        depth = engine.facts.depth
        plans = parts.ways(
            lambda name, keep, depth=depth: choose.build(name, keep, SETTINGS.get(name, {}), depth),
            args.method.split(","), args.keep.split(","),
        )  # fmt: skip
        for batch in wanted:
            measure = partial(parts.answers, engine, shape, batch, plans, args.device, args.repeats, args.length)
            book.part(f"answers {shape}x{batch}", measure)
        del engine, measure
        gc.collect()
        torch.cuda.empty_cache()
    book.show()


class Book:
    """The file, part by part: what it holds is not measured again."""

    def __init__(self, path: Path, args: argparse.Namespace) -> None:
        self.path = path
        settings = {k: v for k, v in vars(args).items() if k in ("method", "keep", "width", "repeats", "length")}
        key = {"settings": settings, "hardware": environment.hardware(torch.device(args.device)),
               "versions": environment.versions()}  # fmt: skip
        key = json.loads(json.dumps(key))
        old = json.loads(path.read_text()) if path.exists() and not args.anew else {}
        known = old.get("parts", {}) if {k: old.get(k) for k in key} == key else {}
        self.data: dict[str, Any] = key | {"command": "python benchmarks/gpu.py", "parts": known}

    def has(self, name: str) -> bool:
        return name in self.data["parts"]

    def part(self, name: str, measure: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Measure, unless it is there; out of memory is a finding, not an end."""
        if self.has(name):
            return
        print(name, flush=True)
        try:
            rows = list(measure())
        except torch.OutOfMemoryError:
            rows = [{"failed": "out of memory"}]
        self.data["parts"][name] = {"commit": environment.commit(), "rows": rows}
        files.write(self.path, (json.dumps(self.data, indent=1) + "\n").encode())

    def show(self) -> None:
        """One table a kind of part."""
        console = Console(width=200)
        for kind in ("machine", "kernels", "answers"):
            rows = [r for name, p in self.data["parts"].items() if name.startswith(kind) for r in p["rows"]]
            columns = list(dict.fromkeys(c for r in rows for c in r))
            table = Table(title=f"{kind}: {self.path}")
            for column in columns:
                table.add_column(column.replace("_", " "))
            for row in rows:
                table.add_row(*(_cell(row.get(c)) for c in columns))
            console.print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
