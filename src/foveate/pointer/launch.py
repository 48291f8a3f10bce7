"""A pointer's walk handed to one kernel: everything linear is applied to all tokens beforehand.

The query is linear in the state, so its matrix goes into the keys; a GRU's input is linear in the picks, so its matrix
goes into the tokens. What is left a step is a sum of rows. Rounding differs from the steps in torch in the last bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.ops import roads
from foveate.pointer.pointing import Pointing, Scene


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
    dials_3 = torch.stack((cover, base, best))
    return launch(score_BN, key_BmN, sight_BNN, given, own, begin_Bm, stop, time_B.float(), dials_3, most, config.group,
                  config.stop == "hazard")  # fmt: skip
