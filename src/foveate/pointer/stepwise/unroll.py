"""Picking for training: hard picks drive the history, soft ones the score; every equation of the paper is a function.

p_t    = softmax(l_t / tau)
q_t+1  = M^T (onehot(a_t) - sg(p_t) + p_t)
A_t    = prod_{u<t} (1 - p_u(stop))
s_i    = sum_t A_t p_t(i) beta^t
K^     = sum_t A_t (1 - p_t(stop))
alpha  = SoftTopK_{k, tau}(log s),   k = sg(batch mean of K^)

The papers write SoftTopK(s) and leave tau open. s falls with beta^t, so that at a tau that suits the first picks no
late one stands out; the logarithm is the same ranking on a scale where one tau suits all. `Heat.logs` has both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.pointer.candidates import Candidates
from foveate.pointer.soft import Heat, Scored, Soft
from foveate.pointer.softtop import soft_top
from foveate.pointer.stepwise.decoder import History
from foveate.pointer.stepwise.pointer import Pointer, take

_PADDING = -1e9
_FLOOR = 1e-8
"""Of a score whose logarithm is taken."""


def alive(stop_BT: Tensor) -> Tensor:
    """A_t: the chance that no stop came before round t, [B, T]."""
    return F.pad((1 - stop_BT).cumprod(1)[:, :-1], (1, 0), value=1.0)


def weights(stop_BT: Tensor, beta: float, scored: Scored = "alive") -> Tensor:
    """What each round counts in the score, [B, T]; rounds count from 1.

    "alive", as published: A_t beta^t. The papers' ablations: "sum", all alike; "last", the round before the stop alone,
    as far as each round is that.
    """
    if scored == "sum":
        return torch.ones_like(stop_BT)
    a_BT = alive(stop_BT)
    if scored == "last":
        return a_BT * F.pad(stop_BT[:, 1:], (0, 1), value=1.0)
    return a_BT * beta ** torch.arange(1, stop_BT.shape[1] + 1, device=stop_BT.device)


def trajectory(chance_BTN: Tensor, weight_BT: Tensor) -> Tensor:
    """s: how much each token was pointed at, [B, N]."""
    return torch.einsum("bt,btn->bn", weight_BT, chance_BTN)


def expected(stop_BT: Tensor) -> Tensor:
    """K^ in rounds: a differentiable count, [B]."""
    return (alive(stop_BT) * (1 - stop_BT)).sum(1)


def straight(memory_BMD: Tensor, chance_BM: Tensor, pick_Bg: Tensor) -> Tensor:
    """The next queries, [B, g, D]: picked rows in value; in gradient the soft mean row, of which the stop is a part."""
    soft_B1D = chance_BM.unsqueeze(1) @ memory_BMD
    return take(memory_BMD, pick_Bg) + (soft_B1D - soft_B1D.detach())


def unroll(pointer: Pointer, c: Candidates, most: int, heat: Heat, stop_bias: Tensor | float = 0.0) -> Soft:
    """The published relaxation of a selection.

    Args:
        pointer: what to pick by.
        c: the images, padded or not.
        most: T_max in tokens.
        heat: tau is its temperature; whether a pick learns through later ones; beta; how far the question is let in.
        stop_bias: the length pressure as an input: added to the stop's logit.
    """
    config = pointer.config
    scene = pointer.scene(c, heat.text)
    memory_BMD = scene.memory_BMD
    b, n = memory_BMD.shape[0], memory_BMD.shape[1] - 1
    padding_BN = torch.zeros(b, n, dtype=torch.bool, device=memory_BMD.device)
    padding_BN = padding_BN if c.real_BN is None else ~c.real_BN
    closed_BN, covered_BN = padding_BN, memory_BMD.new_zeros(b, n)
    over_B = torch.zeros(b, dtype=torch.bool, device=memory_BMD.device)
    rows_BgD, history = pointer.start(b), History()
    chances, stops, lives = [], [], []
    for start in range(0, most, config.group):
        logit_BM = pointer.decoder(rows_BgD, scene.layers, history)
        # One token always stays: the first round is not asked to stop.
        asked = stop_bias if start else -torch.inf
        candidate_BM = pointer.candidates(logit_BM, covered_BN, closed_BN, asked)
        p_BM = F.softmax(candidate_BM / heat.temperature, -1)
        # A sequence that has stopped says nothing more: no chance, and nothing to count.
        live_B1 = (~over_B).unsqueeze(1).to(p_BM)
        chances.append(p_BM[:, :-1] * live_B1)
        stops.append(p_BM[:, -1:])
        lives.append(live_B1)
        left_BN = candidate_BM.detach()[:, :-1]
        over_B = over_B | (candidate_BM.detach().argmax(1) == n)
        pick_Bg = left_BN.topk(min(config.group, n), 1).indices
        # A row of few tokens runs out of them while others go on.
        over_B = over_B | (closed_BN.gather(1, pick_Bg).any(1))
        if bool(over_B.all()):
            break
        closed_BN = closed_BN.scatter(1, pick_Bg, True)
        covered_BN = pointer.cover(scene, covered_BN, pick_Bg)
        rows_BgD = straight(memory_BMD, p_BM if heat.chained else p_BM.detach(), pick_Bg)
    stop_BT, live_BT = torch.cat(stops, 1), torch.cat(lives, 1)
    score_BN = trajectory(torch.stack(chances, 1), weights(stop_BT, heat.beta, heat.scored))
    score_BN = (score_BN.clamp(min=_FLOOR).log() if heat.logs else score_BN).masked_fill(padding_BN, _PADDING)
    count_B = config.group * (alive(stop_BT) * (1 - stop_BT) * live_BT).sum(1)
    share = count_B.sum() / c.counts_B.sum()
    share = share if heat.felt else share.detach()
    k_B = (share * c.counts_B).clamp(min=1.0).minimum(c.counts_B - 0.5)
    return Soft(soft_top(score_BN, k_B, heat.temperature), count_B)
