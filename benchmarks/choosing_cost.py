"""What choosing costs at N = 2,880 tokens and K = 320, against each paper's loop written down plainly.

    python benchmarks/choosing_cost.py [--tokens 2880] [--keep 320] [--width 1024] [--out FILE]

One thread, float32, random-walk textures (neighbours alike). Each plain loop does what the paper says, one image at a
time, with whole matrices and full recomputation; it keeps the same tokens, which is checked. Times are CPU seconds in
one run, the best of --repeats for ours and of one for the loop: read the ratio. Memory is the peak of resident memory
above the start, in MiB, of one call in a process of its own (Linux).
"""

import argparse
import json
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

import choosing_loops as loops
from foveate import files
from foveate.methods.anchorprune import Anchored
from foveate.methods.cdpruner import Determinantal
from foveate.methods.crisp import WordsFirst
from foveate.methods.dart import Unlike
from foveate.methods.divprune import Farthest
from foveate.methods.eadp import Dispersed
from foveate.methods.gots import Spanning
from foveate.methods.holov import Strips
from foveate.methods.mmtok import CoveringBoth
from foveate.methods.prumerge import PruMerge
from foveate.methods.resprune import SpanningWords
from foveate.methods.scope import Covering
from foveate.methods.sfpruner import Leverage
from foveate.methods.sparsevlm import Recycling
from foveate.methods.tome import Matched
from foveate.methods.visionzip import Zipped
from foveate.methods.vispruner import Deduplicated
from foveate.selection import Selection, TokenView


def scene(n: int, width: int, seed: int = 0) -> TokenView:
    """A texture that changes little from token to token, and signals to go with it."""
    g = torch.Generator().manual_seed(seed)
    walk = torch.randn(1, n, width, generator=g).cumsum(1)
    return TokenView(
        hidden_BND=walk - walk.mean(1, keepdim=True),
        encoder_BNC=walk + torch.randn(1, n, width, generator=g),
        keys_BNC=walk[..., :64] + torch.randn(1, n, 64, generator=g),
        cls_attn_BN=torch.rand(1, n, generator=g).softmax(1),
        text_BTD=torch.randn(1, 24, width, generator=g),
        relevance_BN=torch.rand(1, n, generator=g),
        text_attn_BN=torch.rand(1, n, generator=g),
        key_norm_BN=torch.rand(1, n, generator=g),
        text_hidden_BTD=torch.randn(1, 24, width, generator=g),
        text_norm_BT=torch.rand(1, 24, generator=g),
        grid=(1, n // 48, 48),
    )


Case = tuple[Callable[[TokenView, int], Selection], Callable[[TokenView, int], set[int]]]
CASES: dict[str, Case] = {
    "divprune": (Farthest(), loops.divprune),
    "anchorprune": (Anchored(text_tower="given"), loops.anchorprune),
    "resprune": (SpanningWords(), loops.resprune),
    "crisp": (WordsFirst(), loops.crisp),
    "eadp": (Dispersed(text_tower="given"), loops.eadp),
    "sfpruner": (Leverage(), loops.sfpruner),
    "holov": (Strips(), loops.holov),
    "gots": (Spanning("hidden"), loops.gots),
    "cdpruner": (Determinantal(text_tower="given"), loops.cdpruner),
    "scope": (Covering(), loops.scope),
    "mmtok": (CoveringBoth(), loops.mmtok),
    "vispruner": (Deduplicated(), loops.vispruner),
    "visionzip": (Zipped(), loops.visionzip),
    "prumerge": (PruMerge("fixed"), loops.prumerge),
    "tome": (Matched(as_released=False), loops.tome),
    "dart": (Unlike(), loops.dart),
    "sparsevlm": (Recycling(), loops.sparsevlm),
}


LONG = ("gots", "cdpruner", "resprune", "divprune", "anchorprune", "crisp", "visionzip", "dart")


def timed(call: Callable[[], object], repeats: int) -> tuple[float, object]:
    """The least CPU seconds, and the answer."""
    best, out = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        out = call()
        best = min(best, time.process_time() - start)
    return best, out


def peak(name: str, ours: bool, n: int, k: int, width: int) -> float:
    """MiB above the start, of one call."""
    torch.set_num_threads(1)
    view = scene(n, width)
    # The peak so far is that of imports: forget it.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    CASES[name][0 if ours else 1](view, k)
    return _status("VmHWM") - before


def memory(name: str, shape: tuple[int, int, int], long: int) -> dict[str, float]:
    """Peaks of ours and of the loop, and of ours on a long input where no N x N matrix would fit."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        mine, plain = (pool.apply(peak, (name, o, *shape)) for o in (True, False))
        more = {"long_mib": pool.apply(peak, (name, True, long, 64, 64))} if long and name in LONG else {}
    return {"mib": mine, "plain_mib": plain, **more}


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=2880)
    parser.add_argument("--keep", type=int, default=320)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=int, default=32_768, help="tokens of the memory test; 0 leaves it out")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "choosing_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = json.loads(args.out.read_text()) if args.out.exists() else {}
    view = scene(args.tokens, args.width)
    for name in args.only:
        ours, plain = CASES[name]
        fast, answer = timed(lambda s=ours: s(view, args.keep), args.repeats)
        slow, wanted = timed(lambda s=plain: s(view, args.keep), 1)
        assert isinstance(answer, Selection) and isinstance(wanted, set)
        kept = set(answer.keep_BN[0].nonzero()[:, 0].tolist())
        entry = {"seconds": fast, "plain": slow, "times": slow / fast, "same": len(kept & wanted), "kept": len(kept)}
        if not args.no_memory:
            entry |= memory(name, (args.tokens, args.keep, args.width), args.long)
        data[name] = data.get(name, {}) | entry
        files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())
        print(name, entry, flush=True)


if __name__ == "__main__":
    main()
