"""What a pruned prefill did: counts, budget, cache, time. Readable as a repr, plain data as a dict."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from torch import Tensor

from foveate.cut import Place
from foveate.hf.clock import Seconds, total
from foveate.selection import Grid


@dataclass(frozen=True, eq=False)
class CutReport:
    """What one cut left of one image."""

    at: Place
    asked: int
    """The most tokens that might stay."""
    count: int
    """How many are left."""
    left: Callable[[], Tensor]
    """Which: original indices, ascending. Left on their device until somebody looks."""

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Original indices of what is left, ascending."""
        return tuple(self.left().tolist())

    def all_of(self, tokens: int) -> bool:
        """Whether nothing was dropped of an image of so many tokens."""
        return self.count == tokens


@dataclass(frozen=True)
class ImageReport:
    """One image (or video) of one prompt.

    `per_layer` counts its tokens in each decoder layer; `grid` says where the original tokens lie.
    """

    row: int
    image: int
    kind: str
    tokens: int
    grid: Grid
    cuts: tuple[CutReport, ...]
    per_layer: tuple[int, ...]

    @property
    def budget(self) -> float:
        """Mean visual tokens per decoder layer."""
        return fmean(self.per_layer)


@dataclass(frozen=True)
class Held:
    """Keys and values in a cache, over the batch, padding counted; of layers that hold keys."""

    entries: int
    """Tokens, summed over layers."""
    bytes: int
    """0 without a cache."""


@dataclass(frozen=True)
class Report:
    """One prefill. Text tokens and padding count in the cache figures and operations, images alone in the budget.

    An operation is one of a product's: a multiplication and an addition are two. Sizes are bytes, times seconds.
    """

    images: tuple[ImageReport, ...]
    cache_full: Held
    """What this prompt would hold of the cache without pruning; in sliding layers, the window."""
    cache: Held
    """What it holds. Sliding layers hold everything once a cut drops something, which may be more than a window."""
    flops_full: float | None
    """Operations of the decoder layers' products without pruning, over the batch, padding counted; None where the
    model's config does not tell a layer's shape. Choosing, the tower and the head are not in it."""
    flops: float | None
    """Operations as they are."""
    text_dropped: tuple[int, ...]
    """Text tokens dropped of each prompt by cuts over the whole prompt, in the last layer."""
    _encoding: tuple[Seconds, ...]
    _choosing: tuple[Seconds, ...]

    @property
    def select_seconds(self) -> float:
        """Time spent choosing tokens: taps and selectors. On a GPU this waits for the device."""
        return total(self._encoding) + total(self._choosing)

    @property
    def encode_select_seconds(self) -> float:
        """The part of it spent while images were encoded: tower signals, and cuts before the projector."""
        return total(self._encoding)

    @property
    def tokens(self) -> int:
        """Original visual tokens of the whole batch."""
        return sum(i.tokens for i in self.images)

    @property
    def budget(self) -> float:
        """Mean visual tokens per decoder layer, averaged over the images; 0 without images."""
        return fmean(i.budget for i in self.images) if self.images else 0.0

    @property
    def budget_fraction(self) -> float:
        """The budget over the original count; 1 without images."""
        return fmean(i.budget / i.tokens for i in self.images) if self.images else 1.0

    @property
    def cache_tokens_full(self) -> int:
        """Cache entries (tokens x layers that hold keys) without pruning."""
        return self.cache_full.entries

    @property
    def cache_tokens(self) -> int:
        """Cache entries as they are."""
        return self.cache.entries

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that this prompt holds."""
        return self.cache.bytes

    @property
    def cache_bytes_saved(self) -> int:
        """Bytes of keys and values that this prompt does not hold; less than 0 where a window was shorter."""
        return self.cache_full.bytes - self.cache.bytes

    @property
    def costs(self) -> str:
        """Operations and memory in a line."""
        cache = f"cache of {self.cache_bytes / 2**20:.2f} MiB, {self.cache_bytes_saved / 2**20:.2f} MiB saved"
        if self.flops is None or not self.flops_full:
            return cache
        share = self.flops / self.flops_full
        return f"{operations(self.flops)} of {operations(self.flops_full)} in the decoder layers ({share:.1%}); {cache}"

    def to_dict(self, indices: bool = False) -> dict[str, Any]:
        """Plain data for programs; `indices` adds the kept indices of every cut."""
        return {
            "images": [
                {
                    "row": i.row,
                    "image": i.image,
                    "kind": i.kind,
                    "tokens": i.tokens,
                    "budget": i.budget,
                    "per_layer": list(i.per_layer),
                    "cuts": [
                        {"at": c.at, "asked": c.asked, "kept": c.count, "all": c.all_of(i.tokens)}
                        | ({"indices": list(c.kept)} if indices else {})
                        for c in i.cuts
                    ],
                }
                for i in self.images
            ],
            "tokens": self.tokens,
            "budget": self.budget,
            "budget_fraction": self.budget_fraction,
            "text_dropped": list(self.text_dropped),
            "cache_tokens_full": self.cache_tokens_full,
            "cache_tokens": self.cache_tokens,
            "cache_bytes": self.cache_bytes,
            "cache_bytes_saved": self.cache_bytes_saved,
            "flops_full": self.flops_full,
            "flops": self.flops,
            "select_seconds": self.select_seconds,
        }

    def __repr__(self) -> str:
        lines = [
            f"{self.tokens} visual tokens in {len(self.images)} image(s); "
            f"budget {self.budget:.1f} per layer ({self.budget_fraction:.1%}); "
            f"cache {self.cache_tokens} of {self.cache_tokens_full} entries, "
            f"{self.cache_bytes_saved / 2**20:.2f} MiB saved; selection {self.select_seconds * 1e3:.2f} ms"
        ]
        lines.append(f"  {self.costs}")
        for i in self.images:
            steps = "".join(f" -> {'all ' * c.all_of(i.tokens)}{c.count} at {c.at}" for c in i.cuts)
            lines.append(f"  prompt {i.row}, {i.kind} {i.image}: {i.tokens}{steps}; budget {i.budget:.1f}")
        return "\n".join(lines)


def operations(flops: float) -> str:
    """A number of operations in a unit that fits it."""
    for name, size in (("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {name}"
    return f"{flops / 1e6:.3g} MFLOP"
