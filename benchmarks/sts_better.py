"""Can the shipped selector be bettered where it is level with TOPS? Cheap ideas on validation scenes, fixed counts.

    python benchmarks/sts_better.py --scenes 240 [--path out/sts/often/selector]

Each idea keeps the space that the selector has learned to see likeness in, and changes what is asked there: TOPS's
criteria with their weights; farthest points whose distances are weighted by [CLS] attention or by the learned worth.
Differences are to the selector itself, paired by question; intervals take the questions of a scene as one draw.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate import tiny
from foveate.ops.balance import balance
from foveate.ops.farthest import farthest
from foveate.ops.relevance import transform
from foveate.pointer import PointerSelector
from foveate.pointer.candidates import Candidates
from foveate.selection import TokenView
from sts_figures import against, said
from sts_ways import first, views
from sts_world import World, load_model

Order = Callable[[TokenView, int], Tensor]
TOKENS = 576


class Space:
    """What the selector sees of a batch: likeness, the learned worth, and [CLS] attention as ranks from 0 to 1."""

    def __init__(self, selector: PointerSelector, view: TokenView) -> None:
        pointing, c = selector.pointing, Candidates(view.need("hidden_BND").float())
        scene, memory_Bm = pointing.scene(c)
        seen_BND = c.tokens_BND if not pointing.config.centred else pointing.encoder.standard(c.tokens_BND)
        self.sight_BNd = F.normalize(pointing.sight(seen_BND), dim=-1)
        self.worth_BN = pointing.ask(scene, memory_Bm, 0).base_BN.argsort(1).argsort(1) / TOKENS
        self.cls_BN = transform(view.need("cls_attn_BN"), "rank", 1.0)


def ideas(selector: PointerSelector) -> dict[str, Order]:
    """Name -> the picks of a batch, in order."""
    found: dict[str, Order] = {"the selector itself": lambda v, k: selector.walk(v, k).order_BT}

    def tops(beta: float, lam: float, learned: bool) -> Order:
        def order(v: TokenView, k: int) -> Tensor:
            space = Space(selector, v)
            return balance(
                space.sight_BNd if learned else v.need("hidden_BND"), space.cls_BN, k, 0.5, lam, "mean", beta
            )

        return order

    def weighted(part: str, weight: float) -> Order:
        def order(v: TokenView, k: int) -> Tensor:
            space = Space(selector, v)
            prior_BN = space.cls_BN if part == "cls" else space.worth_BN
            start_B1 = selector.walk(v, 1).order_BT
            return farthest(space.sight_BNd, k, 1 + weight * prior_BN, start_B1, cap=1.0)

        return order

    for beta, lam in ((1.0, 0.5), (0.25, 0.5), (0.25, 1.5), (0.25, 4.0), (0.0, 1.5)):
        for learned in (False, True):
            space = "the learned space" if learned else "that of the tokens"
            found[f"TOPS's criteria in {space}, beta {beta}, lambda {lam}"] = tops(beta, lam, learned)
    for part in ("cls", "worth"):
        found[f"distances weighted by 1 + 0.3 {part}"] = weighted(part, 0.3)
    return found


@torch.no_grad()
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=240, help="validation scenes")
    parser.add_argument("--counts", type=int, nargs="+", default=[64])
    parser.add_argument("--path", default="tiny", help="a selector's folder; by default the shipped one")
    parser.add_argument("--out", type=Path, default=Path("out/sts"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, selector = load_model(), PointerSelector.from_pretrained(args.path)
    _, processor = tiny.load()
    world = World(model, "val", args.scenes, 8, args.out / "features")
    seen = views(model, processor, world)
    counting = torch.tensor([q.kind == "count" for _, asked in world.items for q in asked])
    for k in args.counts:
        base: list[Tensor] = []
        for name, order in ideas(selector).items():
            hits = world.answers(first(torch.cat([order(v, k) for v in seen]), [k] * world.size))
            base = base or hits
            flat, gap = torch.cat(hits).float(), said(against(hits, base))
            print(
                f"{k}: {name}: {100 * flat.mean():.1f}, counting {100 * flat[counting].mean():.1f}; {gap}", flush=True
            )


if __name__ == "__main__":
    main()
