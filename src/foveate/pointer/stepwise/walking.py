"""Picking for use: the best tokens left, round by round, and what the stop said before each round.

Picks do not depend on the stop, so one walk serves every stop bias and every count.
"""

import torch
import torch.nn.functional as F

from foveate.pointer.candidates import Candidates
from foveate.pointer.picking import Walk
from foveate.pointer.stepwise.decoder import History
from foveate.pointer.stepwise.pointer import Pointer, take


@torch.no_grad()
def walk(pointer: Pointer, c: Candidates, most: int, end: float | None = None) -> Walk:
    """Pick `most` different tokens of each image; arguments as in `picking.walk`."""
    config = pointer.config
    scene = pointer.scene(c)
    b, n = scene.memory_BMD.shape[0], scene.memory_BMD.shape[1] - 1
    # The first layer reads nothing but rows of the memory: their projections are one product.
    known_BM3 = pointer.decoder.stack[0].project(scene.memory_BMD)
    rows_BgD, qkv_Bg3, history = pointer.start(b), None, History()
    covered_BN = scene.memory_BMD.new_zeros(b, n)
    closed_BN = torch.zeros_like(covered_BN, dtype=torch.bool)
    order, stops = [], []
    look = end is not None and covered_BN.device.type == "cpu" and not torch.compiler.is_compiling()
    over_B = closed_BN[:, 0]
    for start in range(0, most, config.group):
        logit_BM = pointer.decoder(rows_BgD, scene.layers, history, qkv_Bg3)
        candidate_BM = pointer.candidates(logit_BM, covered_BN, closed_BN, 0.0)
        best_Bg, pick_Bg = candidate_BM[:, :-1].topk(min(config.group, most - start), 1)
        # One token always stays: the first round is not asked.
        stop_B = candidate_BM[:, -1] - best_Bg[:, 0] if start else torch.full_like(best_Bg[:, 0], -torch.inf)
        order.append(pick_Bg)
        stops.append(F.pad(stop_B.unsqueeze(1), (0, pick_Bg.shape[1] - 1), value=-torch.inf))
        if look and bool((over_B := over_B | (stop_B + (end or 0.0) > 0)).all()):
            break
        closed_BN = closed_BN.scatter(1, pick_Bg, True)
        covered_BN = pointer.cover(scene, covered_BN, pick_Bg)
        rows_BgD, qkv_Bg3 = take(scene.memory_BMD, pick_Bg), take(known_BM3, pick_Bg)
    return Walk(torch.cat(order, 1), torch.cat(stops, 1))
