"""A pointer's walk handed to one kernel on a GPU, or to one compiled loop on a CPU.

For the kernel everything linear is applied to all tokens beforehand: the query is linear in the state, so its matrix
goes into the keys; a GRU's input is linear in the picks, so its matrix goes into the tokens. What is left a step is a
sum of rows. Rounding differs from the steps in torch in the last bits of a float32. The loop on a CPU computes in
float64, as the steps there do, and compares what both round to float32: their picks are the same, ties included.
"""

from math import log
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.ops import roads
from foveate.pointer.pointing import HUSHED, NEVER, Pointing, Scene


def serves(pointing: Pointing, scene: Scene) -> bool:
    """Whether there is a kernel for it: on a GPU, and for widths that are a power of two."""
    width = pointing.config.width
    return roads.kernels(scene.state_BNm) and width >= 16 and width & (width - 1) == 0


def walk(pointing: Pointing, scene: Scene, begin_Bm: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Picks [B, T] and the stop's logit before each, as `picking.walk` gives them."""
    from foveate.ops.gpu.pointing import launch

    config, root = pointing.config, pointing.config.width**0.5
    key_BmN = (scene.key_BNm @ (pointing.query.weight / root)).mT
    score_BN = scene.score_BN + scene.key_BNm @ (pointing.query.bias / root)
    given = own = stop = None
    zero = score_BN.new_zeros(())
    cover = base = best = zero
    if config.state:
        gru, m = pointing.memory, config.width
        given = (scene.state_BNm @ gru.weight_ih.T + gru.bias_ih).unflatten(-1, (3, m))
        own = torch.cat((gru.weight_hh.unflatten(0, (3, m)).mT, gru.bias_hh.view(3, 1, m)), 1)
    if config.coverage:
        cover = F.softplus(pointing.coverage)
        sight_BNN = torch.relu(scene.sight_BNd @ scene.sight_BNd.mT)
    else:
        sight_BNN = score_BN.new_zeros(*score_BN.shape, score_BN.shape[1])
    time_B = torch.zeros_like(scene.budget_B)
    if config.stop != "none":
        stop = pointing.query.weight.T @ pointing.stop_key / root
        base = pointing.query.bias @ pointing.stop_key / root + pointing.stop_base
    if config.stop == "hazard":
        best, time_B = pointing.stop_best, pointing.stop_time / scene.budget_B
    # On the device: read to the host they would be waited for.
    dials_4 = torch.stack((cover, base, best, torch.full_like(zero, HUSHED)))
    return launch(score_BN, key_BmN, sight_BNN, given, own, begin_Bm, stop, time_B.float(), scene.lead_B.float(),
                  dials_4, most, config.group, config.stop == "hazard")  # fmt: skip


def loop(
    pointing: Pointing, scene: Scene, begin_Bm: Tensor, most: int, end: float | None = None
) -> tuple[Tensor, Tensor]:
    """The same on a CPU, left early where all walks have ended at this stop bias."""
    from foveate.ops.compiled import pointing as compiled

    # Its arguments are more than numba's own types know.
    walk: Any = compiled.walk

    def sides(weight: Tensor, bias: Tensor) -> Any:
        return torch.cat((weight, bias[:, None]), 1).double().numpy()

    config, m = pointing.config, pointing.config.width
    none, b = np.empty(0), len(scene.score_BN)
    gates = [np.empty((0, m + 1))] * 2
    if config.state:
        gru = pointing.memory
        gates = [sides(gru.weight_ih, gru.bias_ih), sides(gru.weight_hh, gru.bias_hh)]
    stops, over = none, none
    if config.stop != "none":
        hazard = config.stop == "hazard"
        best, time = (float(pointing.stop_best), float(pointing.stop_time)) if hazard else (1.0, 0.0)
        stops = np.array([*pointing.stop_key.tolist(), float(pointing.stop_base), best, time])
        if end is not None:
            over = np.array([end, 1 / config.stop_scale, log(0.5)] if hazard else [end, 0.0, 0.0])
    order_BT, stop_BT = np.empty((b, most), np.int64), np.empty((b, most), np.float32)
    arrays = [
        *(x.contiguous().numpy() for x in (scene.score_BN, scene.key_BNm, scene.state_BNm, scene.sight_BNd)),
        *(x.double().numpy() for x in (begin_Bm, scene.lead_B, scene.budget_B)),
    ]
    weights = (sides(pointing.query.weight, pointing.query.bias), *gates)
    cover = float(F.softplus(pointing.coverage.double())) if config.coverage else 0.0
    made = walk(*arrays, weights, cover, stops, config.group, HUSHED, NEVER, over, order_BT, stop_BT)
    return torch.from_numpy(order_BT[:, :made]), torch.from_numpy(stop_BT[:, :made])
