"""The papers' loops, written down plainly: one image, whole matrices, everything computed anew at every step."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, normalize, pad

from foveate.methods.sparsevlm import Recycling
from foveate.selection import TokenView


def gots(v: TokenView, k: int) -> set[int]:
    """Residuals of all tokens, projected anew by every pick."""
    left = v.hidden_BND[0].double().clone()
    order = []
    for _ in range(k):
        energy = left.square().sum(1)
        energy[order] = -1
        i = int(energy.argmax())
        q = left[i] / left[i].norm()
        left = left - (left @ q)[:, None] * q
        order.append(i)
    return set(order)


def cdpruner(v: TokenView, k: int) -> set[int]:
    """The N x N kernel, and its greedy determinant."""
    x = normalize(v.hidden_BND[0].double(), dim=1)
    s = -v.relevance_BN[0].double()
    r = (s - s.min() + 1e-6) / (s.max() - s.min())
    kernel = r[:, None] * (x @ x.T) * r
    gain, basis, order = kernel.diagonal().clone(), torch.zeros(0, len(x), dtype=torch.double), []
    for _ in range(k):
        i = int(gain.argmax())
        e = (kernel[i] - basis.T @ basis[:, i]) / gain[i].sqrt()
        basis = torch.cat((basis, e[None]))
        gain = gain - e**2
        gain[[*order, i]] = -torch.inf
        order.append(i)
    return set(order)


def scope(v: TokenView, k: int) -> set[int]:
    """Every candidate's whole gain, at every step."""
    x = normalize(v.hidden_BND[0], dim=1)
    like, a = x @ x.T, v.cls_attn_BN[0]
    best, order = torch.zeros(len(x)), []
    for _ in range(k):
        value = (like - best).clamp(min=0).sum(1) * a
        value[order] = -torch.inf
        order.append(int(value.argmax()))
        best = torch.maximum(best, like[order[-1]])
    return set(order)


def mmtok(v: TokenView, k: int) -> set[int]:
    """The same, over words and tokens."""
    x, t, e = (normalize(y[0], dim=1) for y in (v.hidden_BND, v.text_BTD, v.encoder_BNC))
    words = ((t @ x.T) / 0.02).softmax(1) / len(t)
    image = ((e @ e.T) / 0.2).softmax(1) * (0.5 / len(e))
    rows = torch.cat((words, image)).double()
    best, order = torch.zeros(len(rows), dtype=torch.double), []
    for _ in range(k):
        value = (rows - best[:, None]).clamp(min=0).sum(0)
        value[order] = -torch.inf
        order.append(int(value.argmax()))
        best = torch.maximum(best, rows[:, order[-1]])
    return set(order)


def vispruner(v: TokenView, k: int) -> set[int]:
    """Products of both halves of the pool, every round."""
    order = v.cls_attn_BN[0].argsort(descending=True, stable=True)
    first, pool = order[: k // 2], order[k // 2 :]
    x = normalize(v.encoder_BNC[0], dim=1)
    while len(pool) > k - k // 2:
        even, odd = pool[::2], pool[1::2]
        best = (x[even] @ x[odd].T).amax(1)
        drop = min(8, len(pool) - (k - k // 2))
        pool = torch.cat((even[best.argsort(descending=True, stable=True)[drop:]], odd))
    return set(first.tolist()) | set(pool.tolist())


def visionzip(v: TokenView, k: int) -> set[int]:
    """The keys' whole similarity matrix, for a few of its rows."""
    m = int(10 / 64 * k + 0.5)
    dominant = set(v.cls_attn_BN[0].topk(k - m).indices.tolist())
    rest = [i for i in range(v.cls_attn_BN.shape[1]) if i not in dominant]
    targets = rest[:: len(rest) // m][:m]
    x = normalize(v.keys_BNC[0], dim=1)
    home = (x @ x.T)[:, targets].argmax(1)
    rows = [v.encoder_BNC[0][[i for i in rest if home[i] == j] or [targets[j]]].mean(0) for j in range(m)]
    return dominant | set(targets[: len(rows)])


def prumerge(v: TokenView, k: int) -> set[int]:
    """One kept token after another: its cosines to all, its 32 nearest, their sum."""
    kept = v.cls_attn_BN[0].topk(k - 1).indices.tolist()
    x, a, out = normalize(v.keys_BNC[0], dim=1), v.cls_attn_BN[0], []
    for i in kept:
        like = x @ x[i]
        like[i] = -2
        near = like.topk(32).indices
        out.append(v.encoder_BNC[0, i] + (a[near, None] * v.encoder_BNC[0, near]).sum(0))
    return set(kept)


def tome(v: TokenView, k: int) -> set[int]:
    """Rounds of whole products of even and odd tokens, rebuilt with scatter."""
    x = v.keys_BNC[0]
    size, name = torch.ones(len(x)), torch.arange(len(x))
    step = -(-(len(x) - k) // 8)
    while len(x) > k:
        unit = normalize(x, dim=1)
        best, to = (unit[::2] @ unit[1::2].T).max(1)
        r = min(step, len(x) - k, len(x) // 2)
        go = best.argsort(descending=True, stable=True)[:r]
        total, weight = x * size[:, None], size.clone()
        for i in go.tolist():
            j = 2 * int(to[i]) + 1
            total[j] += x[2 * i] * size[2 * i]
            weight[j] += size[2 * i]
        stay = torch.ones(len(x), dtype=torch.bool)
        stay[2 * go] = False
        x, size, name = (total / weight[:, None])[stay], weight[stay], name[stay]
    return set(name.tolist())


def dart(v: TokenView, k: int) -> set[int]:
    """One pivot after another, over lists of what is left."""
    own = v.key_norm_BN[0].topk(4).indices.sort().values.tolist()
    text = v.text_norm_BT[0].topk(4).indices.sort().values.tolist()
    pivots = [v.hidden_BND[0, i] for i in own] + [v.text_hidden_BTD[0, i] for i in text]
    kept = set(own)
    for p, pivot in enumerate(pivots):
        take = (k - 4) // 8 + (p < (k - 4) % 8)
        left = [i for i in range(v.hidden_BND.shape[1]) if i not in kept]
        like = torch.stack([torch.cosine_similarity(v.hidden_BND[0, i], pivot, dim=0) for i in left])
        kept |= {left[i] for i in like.argsort(stable=True)[:take].tolist()}
    return kept


def sparsevlm(v: TokenView, k: int) -> set[int]:
    """Density peaks by a tensor of all differences, R x R x D."""
    top, spent, clusters = Recycling()._split(v.text_attn_BN.shape[1], k)
    order = v.text_attn_BN[0].argsort(descending=True, stable=True)
    x = v.hidden_BND[0, order[top : top + spent]]
    far = torch.stack([(x - y).square().sum(1) for y in x]).sqrt() / x.shape[1] ** 0.5
    dense = far.topk(clusters, largest=False).values.square().mean(1).neg().exp()
    away = torch.stack(
        [far[i][dense > dense[i]].min() if bool((dense > dense[i]).any()) else far.max() for i in range(len(x))]
    )
    centres = (away * dense).argsort(descending=True, stable=True)[:clusters]
    return set(order[:top].tolist()) | set(order[top + centres].tolist())


def divprune(v: TokenView, k: int) -> set[int]:
    """The matrix of distances; every step takes the least of all picked rows anew."""
    x = normalize(v.hidden_BND[0], dim=1)
    far = 1 - x @ x.T
    order = [int(far.clone().fill_diagonal_(torch.inf).amin(1).argmax())]
    return set(_spread(far, order, k, torch.ones(len(x))))


def _spread(far: Tensor, order: list[int], k: int, weight: Tensor) -> list[int]:
    while len(order) < k:
        value = far[order].amin(0) * weight
        value[order] = -torch.inf
        order.append(int(value.argmax()))
    return order


def anchorprune(v: TokenView, k: int) -> set[int]:
    """The ranking walked token by token, then weighted farthest points."""
    x, e = normalize(v.hidden_BND[0], dim=1), normalize(v.encoder_BNC[0], dim=1)
    order = (-v.relevance_BN[0]).argsort(descending=True, stable=True).tolist()
    least, new = int(10 / 64 * k + 0.5), 0
    anchors = order[:least]
    for i in order[least : k // 2]:
        new += bool((1 - x[order[:least]] @ x[i]).min() > 0.2)
        anchors.append(i)
        if new == 3:
            break
    return set(_spread((1 - e @ e.T).clamp(max=1), anchors, k, v.cls_attn_BN[0]))


def resprune(v: TokenView, k: int) -> set[int]:
    """As `gots`, weighted by the nearest word, from the most attended token on."""
    left = v.hidden_BND[0].double().clone()
    near = (normalize(v.hidden_BND[0], dim=1) @ normalize(v.text_BTD[0], dim=1).T).amax(1).double()
    weight = (near.clamp(min=0) + 1e-6) ** 0.75
    order = [int(v.cls_attn_BN[0].argmax())]
    while True:
        q = left[order[-1]] / left[order[-1]].norm()
        left = left - (left @ q)[:, None] * q
        if len(order) == k:
            return set(order)
        energy = left.square().sum(1) * weight
        energy[order] = -1
        order.append(int(energy.argmax()))


def crisp(v: TokenView, k: int) -> set[int]:
    """Word by word, then farthest points."""
    x, t, a = normalize(v.hidden_BND[0], dim=1), normalize(v.text_BTD[0], dim=1), v.cls_attn_BN[0]
    core = int(0.3 * k)
    near = [(x @ word).argsort(descending=True, stable=True) for word in t]
    worth = torch.stack([a[n[: core // len(t)]].sum() for n in near])
    quota = (worth / worth.sum() * core).floor().long().tolist()
    first = sorted({i for n, q in zip(near, quota, strict=True) for i in n[:q].tolist()})
    return set(_spread(1 - x @ x.T, first, k, torch.ones(len(x))))


def eadp(v: TokenView, k: int) -> set[int]:
    """Importance by the question, and every candidate's whole gain, at every step."""
    x, t = normalize(v.hidden_BND[0], dim=1), normalize(v.text_BTD[0], dim=1)
    words = -(t @ x.T)
    share = (words / 0.01).softmax(1)
    entropy = torch.special.entr(share).sum(1)
    low = entropy.argsort(stable=True)[: int(0.2 * len(t))]
    detail = (-entropy[low] / 0.01).softmax(0) @ words[low]
    score = 0.5 * -v.relevance_BN[0] + 0.5 * detail
    score = (score - score.min() + 1e-6) / (score.max() - score.min() + 1e-6)
    edge = torch.exp(-0.5 * torch.tensor([1.0, 0.0, 1.0]))
    kernel = edge[:, None] * edge / edge.sum() ** 2
    plane = pad(score.view(1, 1, -1, 48), (1, 1, 1, 1), "reflect")
    weight = conv2d(plane, kernel[None, None]).flatten().clamp(min=0)
    like = (1 + x @ x.T) / 2
    best, order = torch.zeros(len(x)), []
    for _ in range(k):
        value = (like - best).clamp(min=0) @ weight
        value[order] = -torch.inf
        order.append(int(value.argmax()))
        best = torch.maximum(best, like[order[-1]])
    return set(order)


def sfpruner(v: TokenView, k: int) -> set[int]:
    """The inverse of the Gram matrix, and the whole matrix of similarities."""
    x = normalize(v.hidden_BND[0], dim=1)
    z, a = x.double(), v.cls_attn_BN[0]
    ridge = 0.01 * len(z) / z.shape[1]
    lever = (z @ torch.linalg.inv(z.T @ z + ridge * torch.eye(z.shape[1], dtype=torch.double)) * z).sum(1)
    score = lever * ((a - a.min()) / (a.max() - a.min()))
    above = score[None] > score[:, None]
    nearest = (x @ x.T).masked_fill(~above, 0).clamp(min=0).amax(1)
    return set((score * (1 - nearest)).argsort(descending=True, stable=True)[:k].tolist())


def holov(v: TokenView, k: int) -> set[int]:
    """Strip after strip; shares by largest weight, what a strip cannot hold passed on."""
    n = len(v.cls_attn_BN[0])
    x, a = normalize(v.hidden_BND[0], dim=1).chunk(16), (1000 * v.cls_attn_BN[0]).chunk(16)
    scores = []
    for rows, attn in zip(x, a, strict=True):
        like = rows @ rows.T
        like.fill_diagonal_(0)
        spread = like.var(1)
        scores.append(float((attn + 0.09 * spread * attn.mean() / spread.mean()).mean()))
    quota, room = [0] * 16, n // 16
    while sum(quota) < k:
        left, free = k - sum(quota), [i for i in range(16) if quota[i] < room]
        total = sum(scores[i] for i in free)
        part = {i: int(scores[i] / total * left) for i in free}
        for i in sorted(free, key=lambda i: -scores[i])[: left - sum(part.values())]:
            part[i] += 1
        for i, more in part.items():
            quota[i] = min(room, quota[i] + more)
    return {
        s * room + i
        for s, attn in enumerate(a)
        for i in attn.argsort(descending=True, stable=True)[: quota[s]].tolist()
    }
