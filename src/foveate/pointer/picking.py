"""Picking for use: the best token left, step by step, and how many of the picks stand before the stop.

Picks do not depend on the stop, so one walk serves every stop bias and every count: calibrating needs no second one.
Nothing in the loop waits for a device: the steps are as many as allowed, and a mask says which of them stand.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.ops import roads
from foveate.pointer import launch
from foveate.pointer.candidates import Candidates
from foveate.pointer.config import Stopping
from foveate.pointer.pointing import Pointing


@dataclass(frozen=True)
class Walk:
    """B sequences of T picks: token numbers, and the stop's logit before each pick.

    The logit is -inf where nothing was asked: before the first pick, and inside a group.
    """

    order_BT: Tensor
    stop_BT: Tensor

    def standing(self, config: Stopping, stop_bias: float) -> Tensor:
        """Which picks come before the stop, [B, T] bool; the first always does."""
        if config.stop == "none":
            return torch.ones_like(self.order_BT, dtype=torch.bool)
        logit_BT = self.stop_BT + stop_bias
        if config.stop == "softmax":
            return (logit_BT <= 0).cumprod(1).bool()
        # Half of all sequences of a trained stop have ended here: its median length, which needs no calibration.
        return F.logsigmoid(-logit_BT / config.stop_scale).cumsum(1) >= log(0.5)

    def mask(self, standing_BT: Tensor, n: int) -> Tensor:
        """The tokens of the picks that stand, as a mask of n."""
        keep_BN = torch.zeros(len(self.order_BT), n, dtype=torch.bool, device=self.order_BT.device)
        return keep_BN.scatter_(1, self.order_BT, standing_BT)


@torch.no_grad()
def walk(pointing: Pointing, c: Candidates, most: int, end: float | None = None) -> Walk:
    """Pick `most` different tokens of each image.

    Args:
        pointing: what to pick by.
        c: the images; nothing padded.
        most: how many, at most the number of tokens.
        end: a stop bias after whose stop picks may be left out. Only where looking at the stops is free, on a CPU.
    """
    config = pointing.config
    scene, memory_Bm = pointing.scene(c)
    if launch.serves(pointing, scene):
        return Walk(*launch.walk(pointing, scene, memory_Bm, most))
    if roads.compiled(scene.score_BN):
        return Walk(*launch.loop(pointing, scene, memory_Bm, most, end))
    if scene.score_BN.device.type == "cpu" and not torch.compiler.is_compiling():
        pointing, scene, memory_Bm = pointing.exact(scene, memory_Bm)
    b = len(scene.score_BN)
    row_B = torch.arange(b, device=scene.score_BN.device)
    covered_BN = torch.zeros_like(scene.score_BN)
    taken_BN = torch.zeros_like(scene.score_BN, dtype=torch.bool)
    never_B = torch.full((b,), -torch.inf, device=scene.score_BN.device)
    order, stops = [], []
    look = end is not None and scene.score_BN.device.type == "cpu" and not torch.compiler.is_compiling()
    for start in range(0, most, config.group):
        asked = pointing.ask(scene, memory_Bm, start)
        picked_Bm = torch.zeros_like(memory_Bm)
        size = min(config.group, most - start)
        for place in range(size):
            u_BN = pointing.covered(asked, covered_BN).float().masked_fill(taken_BN, -torch.inf)
            best_B, pick_B = u_BN.max(1)
            best_B, may_stop = best_B.to(memory_Bm.dtype), start and not place and config.stop != "none"
            stops.append(pointing.stop(asked, best_B) if may_stop else never_B)
            order.append(pick_B)
            taken_BN = taken_BN.scatter(1, pick_B.unsqueeze(1), True)
            covered_BN = pointing.cover(scene, covered_BN, scene.sight_BNd[row_B, pick_B])
            picked_Bm = picked_Bm + scene.state_BNm[row_B, pick_B]
        memory_Bm = pointing.remember(memory_Bm, picked_Bm / size)
        if look and not bool(Walk(order[-1][:, None], torch.stack(stops, 1)).standing(config, end or 0.0)[:, -1].any()):
            break
    return Walk(torch.stack(order, 1), torch.stack(stops, 1).float())
