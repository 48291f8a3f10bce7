"""RESTORE's groups: the same anchors, members, places and rows as the released code, and as the paper's formula."""

from dataclasses import dataclass

import pytest
import torch

from foveate.methods.switches import Restored
from foveate.selection import Selection, TokenView

from .cases import PUBLIC, Case, kept


@dataclass(frozen=True)
class Given:
    """What the stored case says the base selector chose."""

    index: tuple[int, ...]
    reads = frozenset({"hidden_BND"})
    adaptive = False

    def __call__(self, view, k):
        assert k == len(self.index)
        return Selection.of(torch.tensor([self.index]), view.shape[1])


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("released", [True, False])
def test_groups(name, released):
    case = Case("restore", name)
    base = tuple(case["base_keep"][0].tolist())
    select = Restored(Given(base), len(base) / case.k, as_released=released)
    out = select(TokenView(hidden_BND=case["hidden"]), case.k)
    end = "" if released else "_paper"
    assert kept(out) == sorted(case[f"position{end}"][0].tolist())
    # Which tokens live together: the same partition, under other names.
    home = (out.mix_BKN[0] > 0).int().argmax(0)
    assign = case[f"assign{end}"][0]
    pairs = set(zip(assign.tolist(), home.tolist(), strict=True))
    assert len(pairs) == case.k == len({a for a, _ in pairs})
    if released:
        rows = (out.mix_BKN @ case["hidden"])[0]
        assert (rows - case["rows"][0]).abs().max() <= 1e-5 * case["rows"].abs().max()
