"""Share a video's tokens among frames by how unlike the whole each is, and keep each frame's least typical tokens.

VidCom2, arXiv 2505.14454. The released code was read (xuyang-liu16/VidCom2 @ 0312a662f51823d28297b1d57307325f1ce39f55)
but not run: there are no authors' indices to compare with.

Over the half of the channels that varies least, rows at length 1, a token's typicality is the sum of Gaussian
similarities of five widths (2^-3 to 2) to the video's mean, plus the same to its frame's mean. A frame's share follows
the softmax, at temperature 0.01, of the negated mean similarity to the video: 1 + softmax - mean.

Differences: counts are whole numbers that sum to k; the release rounds each frame's and may keep more or fewer. An
image is one frame. Newline tokens, where a video has them, are tokens like others.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.evs import frame_count
from foveate.ops.cosine import unit
from foveate.ops.shares import shared_out
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_WIDTHS = tuple(2.0**p for p in range(-3, 2))


@dataclass(frozen=True)
class Untypical:
    """Each frame's least typical tokens, as many as its share.

    Args:
        temperature: of the shares; smaller gives more to the most unlike frame.
        channels: the share of the channels that counts, those that vary least.
    """

    temperature: float = 0.01
    channels: float = 0.5

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.channels <= 1:
            raise PlanError(f"temperature is {self.temperature} and channels {self.channels}; above 0, and in (0, 1]")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND").float()
        n, d = hidden_BND.shape[1:]
        check_k(k, n)
        frames = frame_count(view)
        calm_BC = ranked(-hidden_BND.var(1, correction=0))[:, : max(1, int(d * self.channels))]
        x_BND = unit(hidden_BND.gather(2, calm_BC[:, None].expand(-1, n, -1)))
        x_BFSD = x_BND.unflatten(1, (frames, -1))
        whole_BFS = _similarity(x_BFSD, x_BFSD.mean((1, 2), keepdim=True))
        typical_BFS = whole_BFS + _similarity(x_BFSD, x_BFSD.mean(2, keepdim=True))
        share_BF = (-whole_BFS.mean(-1) / self.temperature).softmax(1)
        room_F = torch.full((frames,), n // frames, device=hidden_BND.device)
        quota_BF1 = shared_out(1 + share_BF - 1 / frames, k, room_F)[:, :, None]
        return Selection((ranked(-typical_BFS).argsort(-1) < quota_BF1).flatten(1))


def _similarity(x_BFSD: Tensor, centre: Tensor) -> Tensor:
    """[B, F, S]: Gaussians of all widths, summed."""
    far_BFS = (x_BFSD - centre).square().sum(-1)
    return torch.stack([(-far_BFS / (2 * w)).exp() for w in _WIDTHS]).sum(0)


@checked
def vidcom2(keep: float | int, temperature: float = 0.01, channels: float = 0.5) -> Plan:
    """VidCom2: the least typical tokens of each frame, unlike frames with more of them, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        temperature: of the frames' shares.
        channels: the share of the channels that counts, those that vary least.
    """
    return Plan((Cut("input", Untypical(temperature, channels), keep),))
