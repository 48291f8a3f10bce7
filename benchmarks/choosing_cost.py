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
from torch.nn.functional import normalize

from foveate import files
from foveate.methods.cdpruner import Determinantal
from foveate.methods.dart import Unlike
from foveate.methods.gots import Spanning
from foveate.methods.mmtok import CoveringBoth
from foveate.methods.prumerge import PruMerge
from foveate.methods.scope import Covering
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


def gots(v: TokenView, k: int) -> set[int]:
    """Residuals of all tokens, projected anew by every pick."""
    left = v.hidden_BND[0].double().clone()
    order = []
    for _ in range(k):
        energy = left.square().sum(1)
        energy[order] = -1
        i = int(energy.argmax())
        q = left[i] / left[i].norm()
        left = left - (left @ q)[:, None] * q
        order.append(i)
    return set(order)


def cdpruner(v: TokenView, k: int) -> set[int]:
    """The N x N kernel, and its greedy determinant."""
    x = normalize(v.hidden_BND[0].double(), dim=1)
    s = -v.relevance_BN[0].double()
    r = (s - s.min() + 1e-6) / (s.max() - s.min())
    kernel = r[:, None] * (x @ x.T) * r
    gain, basis, order = kernel.diagonal().clone(), torch.zeros(0, len(x), dtype=torch.double), []
    for _ in range(k):
        i = int(gain.argmax())
        e = (kernel[i] - basis.T @ basis[:, i]) / gain[i].sqrt()
        basis = torch.cat((basis, e[None]))
        gain = gain - e**2
        gain[[*order, i]] = -torch.inf
        order.append(i)
    return set(order)


def scope(v: TokenView, k: int) -> set[int]:
    """Every candidate's whole gain, at every step."""
    x = normalize(v.hidden_BND[0], dim=1)
    like, a = x @ x.T, v.cls_attn_BN[0]
    best, order = torch.zeros(len(x)), []
    for _ in range(k):
        value = (like - best).clamp(min=0).sum(1) * a
        value[order] = -torch.inf
        order.append(int(value.argmax()))
        best = torch.maximum(best, like[order[-1]])
    return set(order)


def mmtok(v: TokenView, k: int) -> set[int]:
    """The same, over words and tokens."""
    x, t, e = (normalize(y[0], dim=1) for y in (v.hidden_BND, v.text_BTD, v.encoder_BNC))
    words = ((t @ x.T) / 0.02).softmax(1) / len(t)
    image = ((e @ e.T) / 0.2).softmax(1) * (0.5 / len(e))
    rows = torch.cat((words, image)).double()
    best, order = torch.zeros(len(rows), dtype=torch.double), []
    for _ in range(k):
        value = (rows - best[:, None]).clamp(min=0).sum(0)
        value[order] = -torch.inf
        order.append(int(value.argmax()))
        best = torch.maximum(best, rows[:, order[-1]])
    return set(order)


def vispruner(v: TokenView, k: int) -> set[int]:
    """Products of both halves of the pool, every round."""
    order = v.cls_attn_BN[0].argsort(descending=True, stable=True)
    first, pool = order[: k // 2], order[k // 2 :]
    x = normalize(v.encoder_BNC[0], dim=1)
    while len(pool) > k - k // 2:
        even, odd = pool[::2], pool[1::2]
        best = (x[even] @ x[odd].T).amax(1)
        drop = min(8, len(pool) - (k - k // 2))
        pool = torch.cat((even[best.argsort(descending=True, stable=True)[drop:]], odd))
    return set(first.tolist()) | set(pool.tolist())


def visionzip(v: TokenView, k: int) -> set[int]:
    """The keys' whole similarity matrix, for a few of its rows."""
    m = int(10 / 64 * k + 0.5)
    dominant = set(v.cls_attn_BN[0].topk(k - m).indices.tolist())
    rest = [i for i in range(v.cls_attn_BN.shape[1]) if i not in dominant]
    targets = rest[:: len(rest) // m][:m]
    x = normalize(v.keys_BNC[0], dim=1)
    home = (x @ x.T)[:, targets].argmax(1)
    rows = [v.encoder_BNC[0][[i for i in rest if home[i] == j] or [targets[j]]].mean(0) for j in range(m)]
    return dominant | set(targets[: len(rows)])


def prumerge(v: TokenView, k: int) -> set[int]:
    """One kept token after another: its cosines to all, its 32 nearest, their sum."""
    kept = v.cls_attn_BN[0].topk(k - 1).indices.tolist()
    x, a, out = normalize(v.keys_BNC[0], dim=1), v.cls_attn_BN[0], []
    for i in kept:
        like = x @ x[i]
        like[i] = -2
        near = like.topk(32).indices
        out.append(v.encoder_BNC[0, i] + (a[near, None] * v.encoder_BNC[0, near]).sum(0))
    return set(kept)


def tome(v: TokenView, k: int) -> set[int]:
    """Rounds of whole products of even and odd tokens, rebuilt with scatter."""
    x = v.keys_BNC[0]
    size, name = torch.ones(len(x)), torch.arange(len(x))
    step = -(-(len(x) - k) // 8)
    while len(x) > k:
        unit = normalize(x, dim=1)
        best, to = (unit[::2] @ unit[1::2].T).max(1)
        r = min(step, len(x) - k, len(x) // 2)
        go = best.argsort(descending=True, stable=True)[:r]
        total, weight = x * size[:, None], size.clone()
        for i in go.tolist():
            j = 2 * int(to[i]) + 1
            total[j] += x[2 * i] * size[2 * i]
            weight[j] += size[2 * i]
        stay = torch.ones(len(x), dtype=torch.bool)
        stay[2 * go] = False
        x, size, name = (total / weight[:, None])[stay], weight[stay], name[stay]
    return set(name.tolist())


def dart(v: TokenView, k: int) -> set[int]:
    """One pivot after another, over lists of what is left."""
    own = v.key_norm_BN[0].topk(4).indices.sort().values.tolist()
    text = v.text_norm_BT[0].topk(4).indices.sort().values.tolist()
    pivots = [v.hidden_BND[0, i] for i in own] + [v.text_hidden_BTD[0, i] for i in text]
    kept = set(own)
    for p, pivot in enumerate(pivots):
        take = (k - 4) // 8 + (p < (k - 4) % 8)
        left = [i for i in range(v.hidden_BND.shape[1]) if i not in kept]
        like = torch.stack([torch.cosine_similarity(v.hidden_BND[0, i], pivot, dim=0) for i in left])
        kept |= {left[i] for i in like.argsort(stable=True)[:take].tolist()}
    return kept


def sparsevlm(v: TokenView, k: int) -> set[int]:
    """Density peaks by a tensor of all differences, R x R x D."""
    top, spent, clusters = Recycling()._split(v.text_attn_BN.shape[1], k)
    order = v.text_attn_BN[0].argsort(descending=True, stable=True)
    x = v.hidden_BND[0, order[top : top + spent]]
    far = torch.stack([(x - y).square().sum(1) for y in x]).sqrt() / x.shape[1] ** 0.5
    dense = far.topk(clusters, largest=False).values.square().mean(1).neg().exp()
    away = torch.stack(
        [far[i][dense > dense[i]].min() if bool((dense > dense[i]).any()) else far.max() for i in range(len(x))]
    )
    centres = (away * dense).argsort(descending=True, stable=True)[:clusters]
    return set(order[:top].tolist()) | set(order[top + centres].tolist())


Case = tuple[Callable[[TokenView, int], Selection], Callable[[TokenView, int], set[int]]]
CASES: dict[str, Case] = {
    "gots": (Spanning("hidden"), gots),
    "cdpruner": (Determinantal(text_tower="given"), cdpruner),
    "scope": (Covering(), scope),
    "mmtok": (CoveringBoth(), mmtok),
    "vispruner": (Deduplicated(), vispruner),
    "visionzip": (Zipped(), visionzip),
    "prumerge": (PruMerge("fixed"), prumerge),
    "tome": (Matched(as_released=False), tome),
    "dart": (Unlike(), dart),
    "sparsevlm": (Recycling(), sparsevlm),
}


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
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            shape = args.tokens, args.keep, args.width
            entry["mib"], entry["plain_mib"] = (pool.apply(peak, (name, o, *shape)) for o in (True, False))
            if args.long and name in ("gots", "cdpruner"):
                entry["long_mib"] = pool.apply(peak, (name, True, args.long, 64, 64))
        data[name] = entry
        files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())
        print(name, entry, flush=True)


if __name__ == "__main__":
    main()
