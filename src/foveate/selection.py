"""What a method sees of a running model, and what it answers. (long: a method's whole contract, in one place)

Shape letters: B images of equal token count, N visual tokens, K kept, T text tokens, D LLM width, C encoder width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from foveate.errors import PlanError, SignalError, unknown
from foveate.ops.topk import top_mask


@dataclass(frozen=True)
class Block:
    """A rectangle of visual tokens inside one image: a frame, a thumbnail, or the tiled part of an AnyRes image.

    Tokens lie in raster order; `newline` says that each row ends with one extra token that is no cell.
    """

    start: int
    rows: int
    columns: int
    newline: bool = False

    @property
    def row_stride(self) -> int:
        """Tokens from one row to the next."""
        return self.columns + self.newline

    @property
    def size(self) -> int:
        """Tokens of the block, newlines counted."""
        return self.rows * self.row_stride


Grid = tuple[Block, ...]

OF_TEXT = frozenset({"text_BTD", "text_hidden_BTD", "text_norm_BT", "text_rows_BRN"})
"""Fields of T text tokens (or R raters), not of N candidates."""


@dataclass(frozen=True)
class TokenView:
    """What a selector may read of B images that have N tokens each. Only the fields it declares are filled.

    After an earlier cut the view holds the surviving tokens only, and `grid` is None: the rectangle has holes.
    """

    hidden_BND: Tensor | None = None
    """States at the cut: at "encoder" features as the projector is given them, projected tokens at "input", hidden
    states at a layer."""
    grid: Grid | tuple[int, int, int] | None = None
    """Where the tokens lie: blocks in token order, or (frames, rows, columns) of one regular grid."""
    encoder_BNC: Tensor | None = None
    """Encoder features of the feature layer (of several, the deepest), one row a token."""
    keys_BNC: Tensor | None = None
    """Head-mean keys of the feature layer."""
    cls_attn_BN: Tensor | None = None
    """Head-mean attention from [CLS] in the feature layer; where a tower has no [CLS], attention received."""
    cls_cos_BN: Tensor | None = None
    """Cosine of [CLS] and each token in the output of the feature layer; only where a tower has a [CLS]."""
    text_BTD: Tensor | None = None
    """Prompt embeddings, without template and image."""
    relevance_BN: Tensor | None = None
    """Image-text similarity in the encoder's joint space; needs a text tower."""
    text_attn_BN: Tensor | None = None
    """Head-mean attention from the rater tokens, as the selector's `attention` field asks for it."""
    text_rows_BRN: Tensor | None = None
    """As `text_attn_BN`, each rater's by itself; zeros behind the last rater of a prompt that has fewer than others."""
    prior_attn_BN: Tensor | None = None
    """As `text_attn_BN`, from the first token after the image: it has seen the image, but not yet the question."""
    first_attn_BN: Tensor | None = None
    """As `cls_attn_BN`, in the tower's first layer."""
    input_BND: Tensor | None = None
    """The tokens as the LLM received them, at cuts inside it."""
    key_norm_BN: Tensor | None = None
    """L1 norm of the token's key in the layer before the cut, before rotation, heads joined."""
    text_hidden_BTD: Tensor | None = None
    """States at the cut of the prompt's tokens behind the image."""
    text_norm_BT: Tensor | None = None
    """The same as `key_norm_BN` for those tokens."""
    text_BN: Tensor | None = None
    """Which candidates are text tokens; filled only for cuts over the whole prompt."""

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N), read off the first tensor there is.

        Raises:
            SignalError: no field is filled.
        """
        for f in fields(self):
            # The question's tokens alone have another length.
            if f.name not in OF_TEXT and isinstance(tensor := getattr(self, f.name), Tensor):
                return tensor.shape[0], tensor.shape[1]
        raise SignalError("this view holds no tensor; fill the fields that the selector reads")

    @property
    def device(self) -> torch.device:
        """Where the view's tensors are; the CPU where there are none."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def need(self, name: str) -> Tensor:
        """The field of that name.

        Raises:
            SignalError: it is empty, or there is none of that name.
        """
        value = getattr(self, name, None)
        if value is None:
            if name not in (known := [f.name for f in fields(self)]):
                raise SignalError(unknown("field of a TokenView", name, known, see="help(foveate.TokenView)"))
            raise SignalError(f"this selector reads {name}, but the view does not hold it; declare it in `reads`")
        return value

    def blocks(self) -> Grid:
        """`grid` as blocks. (frames, rows, columns) becomes one block a frame.

        Raises:
            SignalError: there is no grid, or it does not cover the tokens.
        """
        grid, n = self.grid, self.shape[1]
        if grid is None:
            raise SignalError("this selector reads grid, but tokens were already dropped at an earlier cut")
        if len(grid) == 3 and isinstance(grid[0], int):
            frames, rows, columns = grid
            grid = tuple(Block(f * rows * columns, rows, columns) for f in range(frames))
        if (total := sum(b.size for b in grid)) > n:
            raise SignalError(f"the grid holds {total} tokens, but the view has {n}")
        return grid

    def only(self, names: frozenset[str]) -> "TokenView":
        """A copy with every field outside `names` emptied."""
        return replace(self, **{f.name: None for f in fields(self) if f.name not in names})

    def _tensors(self) -> Iterator[Tensor]:
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor):
                yield value


@dataclass(frozen=True)
class Selection:
    """A selector's answer. Order is always the original order, so a mask is the whole answer.

    Args:
        keep_BN: [B, N] bool, true where a token stays.
        mix_BKN: [B, K, N] weights that make each kept slot a weighted sum of the N tokens; None leaves kept tokens as
            they are. Slot j of image b belongs to the j-th True of `keep_BN[b]`; images that keep fewer than K leave
            their last slots unread.
    """

    keep_BN: Tensor
    mix_BKN: Tensor | None = None

    @property
    def counts_B(self) -> Tensor:
        """How many tokens each image keeps, [B]."""
        return self.keep_BN.sum(-1)

    @classmethod
    def top(cls, score_BN: Tensor, k: int) -> "Selection":
        """The k highest scores [B, N] of each image. Ties go to the lower index.

        Raises:
            PlanError: k is below 1 or above N.
            SignalError: a score is NaN.
        """
        return cls(top_mask(score_BN, k))

    @classmethod
    def everything(cls, like_BN: Tensor) -> "Selection":
        """All tokens as they are, for as many images and tokens as this tensor [B, N, ...] has."""
        return cls(torch.ones(like_BN.shape[:2], dtype=torch.bool, device=like_BN.device))

    @classmethod
    def of(cls, index_BK: Tensor, n: int) -> "Selection":
        """The tokens at these indices, [B, K] from 0 to n - 1, of n."""
        keep = torch.zeros(index_BK.shape[0], n, dtype=torch.bool, device=index_BK.device)
        return cls(keep.scatter_(1, index_BK, True))


class Knob(NamedTuple):
    """What an adaptive selector is turned by to keep more or fewer: one of its fields, and how far that may go.

    A selector that has one says so in a class variable `knob`; `foveate.search.calibrate` turns it. Between `low` and
    `high` the counts must change in one direction only: up with the field if `rising`, else down.
    """

    name: str
    low: float
    high: float
    rising: bool = True


@runtime_checkable
class Selector(Protocol):
    """Chooses which tokens stay at a cut: a frozen dataclass, or an nn.Module.

    `reads` declares the TokenView fields it needs; `adaptive` says that it may keep fewer than k. A selector that reads
    `text_attn_BN` also has a field `attention: Attention` saying whose attention is meant.
    """

    @property
    def reads(self) -> frozenset[str]:
        """TokenView fields; declared, never probed."""
        ...

    @property
    def adaptive(self) -> bool:
        """May keep fewer than k."""
        ...

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k of the view's tokens, exactly k unless adaptive."""
        ...


class Between(Protocol):
    """Merges tokens between the layers of a tower: what a selector's `between` is, which is then asked in its stead."""

    @property
    def proportional(self) -> bool:
        """Whether attention adds log(size) to the logits of merged tokens."""
        ...

    def left(self, n: int, k: int, layers: int) -> list[int]:
        """How many of an image's n tokens each layer leaves; the last leaves k."""
        ...

    def pairs(self, keys_BSC: Tensor, apart: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of S tokens with these head-mean keys, `apart` at the front being no image's: the places of r that go, those
        they go into, [B, r] each, and those of the others, in the order in which they go on, [B, S - r]."""
        ...


@dataclass(frozen=True)
class Attention:
    """Whose LLM attention `text_attn_BN` holds.

    Args:
        raters: "last": the last prompt token (FastV's code, PyramidDrop); "text": the mean over the question's tokens;
            "dynamic": the question tokens whose relevance to the image exceeds the mean (SparseVLM's rule, TOPS's "text
            raters"); "received": the mean over all prompt tokens that can see the token (FastV's paper); "prior": the
            first token behind the last image, which has not seen the question that follows (PriorTR).
        layer: "previous": the layer that ran just before the cut; "own": the layer after the cut, from its own queries
            and keys, computed for the raters alone.
        rotary: False leaves queries and keys as they are before rotation: what attends, without from where (FEATHER).
    """

    raters: Literal["last", "text", "dynamic", "received", "prior"] = "last"
    layer: Literal["previous", "own"] = "previous"
    rotary: bool = True

    def __post_init__(self) -> None:
        if self.raters not in (known := ("last", "text", "dynamic", "received", "prior")):
            raise PlanError(f"raters is {self.raters!r}; it must be one of {', '.join(known)}")
        if self.layer not in ("previous", "own"):
            raise PlanError(f"layer is {self.layer!r}; it must be 'previous' or 'own'")
