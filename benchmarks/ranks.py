"""What the rank of SparseVLM's raters' attention is: how often it is just the number of raters.

    python benchmarks/ranks.py [--scenes 50]

Test questions of the embedded model, four a scene, at every layer, one pass each. Raters are the words above the mean.
"""

import argparse
from collections import Counter

import torch

from foveate import Cut, Plan, attach
from foveate.engines.hf import load
from foveate.methods.sparsevlm import RATERS
from foveate.search.cases import batches
from foveate.selection import Selection, TokenView
from foveate.tiny.examples import examples

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=50)


class Ranks:
    """Keeps all but the last token; notes (layer, raters, rank)."""

    reads, adaptive, attention = frozenset({"text_rows_BRN"}), True, RATERS

    def __init__(self, layer: int, seen: Counter[tuple[int, int, int]]) -> None:
        self.layer, self.seen = layer, seen

    def __call__(self, view: TokenView, k: int) -> Selection:
        rows_BRN = view.need("text_rows_BRN")
        ranks = torch.linalg.matrix_rank(rows_BRN).tolist()
        raters = rows_BRN.any(-1).sum(-1).tolist()
        self.seen.update((self.layer, r, rank) for r, rank in zip(raters, ranks, strict=True))
        return Selection.of(torch.arange(k).expand(len(rows_BRN), k), rows_BRN.shape[2])


@torch.inference_mode()
def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = load("tiny")
    seen: Counter[tuple[int, int, int]] = Counter()
    layers = range(1, engine.facts.depth)
    plan = Plan(tuple(Cut(i, Ranks(i, seen), 576 - i) for i in layers))
    with attach(engine.model, plan):
        for batch in batches(engine, examples(range(args.scenes), "test", 4), 8):
            engine.model(**batch.inputs, use_cache=False, logits_to_keep=1)
    total = seen.total()
    same = sum(n for (_, raters, rank), n in seen.items() if raters == rank)
    print(f"{total} matrices of layers 1 to {layers[-1]}: rank = raters in {100 * same / total:.2f} %")
    print("raters:", _by(seen, 1), "ranks:", _by(seen, 2))


def _by(seen: Counter[tuple[int, int, int]], place: int) -> dict[int, int]:
    out: Counter[int] = Counter()
    for key, n in seen.items():
        out[key[place]] += n
    return dict(sorted(out.items()))


if __name__ == "__main__":
    main()
