"""Images of one batch that keep different numbers: those of equal count are asked together."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from foveate.ops.host import upload
from foveate.ops.merging import alone
from foveate.selection import Selection, TokenView


def by_count(
    view: TokenView, counts_B: Tensor, choose: Callable[[TokenView, int], Selection], mixes: bool = False
) -> Selection:
    """The choice of as many tokens of each image as its count says.

    Args:
        view: the images.
        counts_B: how many each keeps, at least 1; they are waited for.
        choose: some of the images, and how many each of them keeps -> its answer.
        mixes: the answer has `mix_BKN`, also where nothing was merged; False drops it.
    """
    (b, n), device = view.shape, view.device
    keep_BN = torch.zeros(b, n, dtype=torch.bool, device=device)
    counts = counts_B.tolist()
    mix_BKN = torch.zeros(b, max(counts), n, device=device) if mixes else None
    for count in sorted(set(counts)):
        here = upload(torch.tensor([i for i, mine in enumerate(counts) if mine == count]), device)
        answer = choose(_some(view, here), count)
        keep_BN[here] = answer.keep_BN
        if mix_BKN is not None:
            mix_BKN[here, :count] = alone(answer.keep_BN, count) if answer.mix_BKN is None else answer.mix_BKN
    return Selection(keep_BN, mix_BKN)


def _some(view: TokenView, rows: Tensor) -> TokenView:
    tensors = {n: x[rows] for n, x in vars(view).items() if isinstance(x, Tensor)}
    return replace(view, **tensors)  # type: ignore[arg-type]
