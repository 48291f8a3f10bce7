"""An estimate of when dropping visual tokens pays, from a model's shape and a card's data sheet. Measures nothing.

    python benchmarks/roofline.py [--model llava-1.5-7b] [--tokens 576] [--keep 64] [--text 40] [--launch-us 6]

A prefill takes what is longest: its products at `--share` of the card's peak; reading its weights once at the card's
bandwidth; launching its kernels one after another (some 40 a layer in eager mode), which is what a short prompt on a
fast card pays and what no pruning shortens. The tower is counted apart, for the first token. Selection is left out;
"may cost" is what it may take at most before the pruned prefill is no faster than the plain one.
"""

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from foveate.ops.flops import LayerShape


@dataclass(frozen=True)
class Card:
    """Dense bfloat16 TFLOP/s and TB/s, as the data sheets give them."""

    peak: float
    bandwidth: float


CARDS = {
    "H200": Card(989, 4.8),
    "H100": Card(989, 3.35),
    "A100": Card(312, 2.0),
    "L40S": Card(362, 0.86),
    "A6000": Card(155, 0.77),
    "RTX 4090": Card(165, 1.0),
    "L4": Card(121, 0.3),
}


@dataclass(frozen=True)
class Model:
    """A decoder and its vision tower, in a layer's shape and a number of layers."""

    layer: LayerShape
    depth: int
    tower: LayerShape
    tower_depth: int
    merge: int = 1
    window: int = 0
    """Patches that attend to each other in all layers of the tower but one in eight; 0: all of them, in all layers."""

    def tower_layer(self, patches: float) -> float:
        """Operations of a layer of the tower, the mean over its layers."""
        whole = self.tower.flops(patches)
        return whole if not self.window else whole / 8 + 7 / 8 * patches / self.window * self.tower.flops(self.window)


CLIP = LayerShape(1024, 4096, 16, 16, 64, gated=False)
MODELS = {
    "llava-1.5-7b": Model(LayerShape(4096, 11008, 32, 32, 128), 32, CLIP, 23),
    "qwen2.5-vl-7b": Model(LayerShape(3584, 18944, 28, 4, 128), 28, LayerShape(1280, 3420, 16, 16, 80), 32, 4, 64),
}
LAUNCHES = 40
"""Kernels of a decoder layer, eager: about 1,300 of 32 layers were counted."""


def seconds(layer: LayerShape, work: float, depth: int, batch: int, card: Card, share: float, launch: float) -> float:
    """One pass of `batch` sequences through layers of so many operations each."""
    weights = 2 * depth * (layer.flops(1) / 2 - 2 * layer.heads * layer.head)
    products = batch * depth * work / (card.peak * 1e12 * share)
    return max(products, weights / (card.bandwidth * 1e12), depth * LAUNCHES * launch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llava-1.5-7b", choices=MODELS)
    parser.add_argument("--tokens", type=int, default=576)
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--text", type=int, default=40)
    parser.add_argument("--batch-sizes", default="1,8,32")
    parser.add_argument("--launch-us", type=float, default=6.0, help="5 to 11 were seen")
    parser.add_argument("--share", type=float, default=0.6, help="of the peak that products reach")
    args = parser.parse_args()
    model, launch = MODELS[args.model], args.launch_us * 1e-6
    table = Table(
        title=f"ESTIMATES, {args.model}, {args.tokens} tokens, {args.keep} kept, {args.launch_us:g} us a launch"
    )
    for name in ("card", "batch", "plain ms", "pruned ms", "prefill, times", "with the tower, times", "may cost ms"):
        table.add_column(name, justify="right")
    for name, card in CARDS.items():
        for batch in map(int, args.batch_sizes.split(",")):
            plain, cut = (
                seconds(model.layer, model.layer.flops(n + args.text), model.depth, batch, card, args.share, launch)
                for n in (args.tokens, args.keep)
            )
            work = model.tower_layer(args.tokens * model.merge)
            tower = seconds(model.tower, work, model.tower_depth, batch, card, args.share / 2, launch)
            table.add_row(name, str(batch), f"{plain * 1e3:.1f}", f"{cut * 1e3:.1f}", f"{plain / cut:.2f}",
                          f"{(plain + tower) / (cut + tower):.2f}", f"{(plain - cut) * 1e3:.1f}")  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
