"""One way of choosing for every engine: driven here without a model, as a serving engine drives it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from foveate import Cut, Selection, SignalError, TokenView
from foveate.choosing import Asked, choose
from foveate.methods import METHODS
from foveate.selection import Block


@dataclass(frozen=True)
class First:
    """Keeps the first k, or one fewer where it may; notes what it was shown."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "grid"})
    adaptive: bool = False
    seen: tuple = ()

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.seen.append((tuple(view.hidden_BND.shape), view.grid, k))
        keep = torch.zeros(view.hidden_BND.shape[:2], dtype=torch.bool)
        keep[:, : k - self.adaptive] = True
        return Selection(keep)


def record(n: int, left: int | None = None, grid=None, d: int = 3) -> Asked:
    left = n if left is None else left
    x = torch.arange(left * d, dtype=torch.float32).view(left, d)
    return Asked(n, left, {"hidden_BND": lambda: x, "text_BTD": lambda: x[:2]}, grid or (Block(0, 1, n),))


def test_equal_records_are_asked_together_and_numbered():
    select = First(seen=[])
    stays = choose(Cut("input", select, 2), [record(4), record(6), record(4)])
    assert sorted(shape for shape, _, _ in select.seen) == [(1, 6, 3), (2, 4, 3)]
    assert sorted(s.number for s in stays) == [0, 1, 2]
    assert all(s.kept.tolist() == [0, 1] and s.mix is None for s in stays)


def test_a_grid_is_shown_only_while_it_is_whole():
    select = First(seen=[])
    choose(Cut("input", select, 2), [record(4, grid=(Block(0, 2, 2),)), record(4, left=3, grid=(Block(0, 2, 2),))])
    assert sorted((shape, grid) for shape, grid, _ in select.seen if grid) == [((1, 4, 3), (1, 2, 2))]
    assert [shape for shape, grid, _ in select.seen if grid is None] == [(1, 3, 3)]


def test_nobody_is_asked_where_nothing_can_go():
    select = First(seen=[])
    assert choose(Cut("input", select, 1.0), [record(4)]) == []
    assert choose(Cut("input", select, 3), [record(8, left=3)]) == [] and select.seen == []
    adaptive = First(adaptive=True, seen=[])
    assert len(choose(Cut("input", adaptive, 3), [record(8, left=3)])) == 1


def test_none_may_stay_and_nobody_is_asked():
    select = First(seen=[])
    (stay,) = choose(Cut(3, select, 0), [record(4)])
    assert stay.kept.tolist() == [] and select.seen == []


def test_a_selector_is_held_to_its_word():
    def lying(shape, **more):
        class Lies(First):
            def __call__(self, view, k):
                return Selection(torch.ones(shape, dtype=torch.bool), **more)

        return Cut("input", Lies(seen=[]), 2)

    with pytest.raises(SignalError, match="kept 4 to 4 of 4"):
        choose(lying((1, 4)), [record(4)])
    with pytest.raises(SignalError, match="must be bool of shape"):
        choose(lying((1, 5)), [record(4)])
    with pytest.raises(SignalError, match="mixes by NaN or infinity"):
        choose(lying((1, 4), mix_BKN=torch.full((1, 4, 4), float("nan"))), [record(4)])
    with pytest.raises(SignalError, match="no field of a TokenView 'hiden_BND'; did you mean 'hidden_BND'"):
        TokenView().need("hiden_BND")


@pytest.mark.parametrize("name", ["random", "uniform", "divprune", "fastervlm"])
def test_methods_choose_alike_alone_and_together(name):
    g = torch.Generator().manual_seed(0)
    cut = METHODS[name](keep=5).cuts[0]
    records = []
    for n in (12, 12, 9):
        x, a = torch.randn(n, 8, generator=g), torch.rand(n, generator=g)
        fields = {"hidden_BND": lambda x=x: x, "encoder_BNC": lambda x=x: x, "cls_attn_BN": lambda a=a: a}
        records.append(Asked(n, n, fields, (Block(0, 3, n // 3),)))
    together = {s.number: s.kept.tolist() for s in choose(cut, records)}
    alone = {i: choose(cut, [r])[0].kept.tolist() for i, r in enumerate(records)}
    assert together == alone
