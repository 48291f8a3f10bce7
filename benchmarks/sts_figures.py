"""What came of each way of choosing: accuracy, counts, paired differences; and the order of picks as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import correlation, fmean, pstdev
from typing import Any

import torch
from PIL import Image, ImageDraw
from rich.table import Table
from torch import Tensor

from foveate.pointer.picking import Walk
from foveate.tiny.statistics import paired, wilson
from foveate.tiny.vocabulary import GRID, PATCH
from sts_world import World

_SCALE = 3


def figures(hits: Sequence[Tensor], counts: Sequence[float], world: World) -> dict[str, Any]:
    """One way's accuracy with its 95% interval, overall, by tier and by kind, and how its counts follow the content.

    `hits` holds a bool vector an item, `counts` a number.
    """
    flat = torch.cat(list(hits))
    scenes = [world.scenes[s] for s, _ in world.items]
    things = [len(s.layout.things) for s in scenes]
    tiers: dict[str, Any] = {}
    for tier in dict.fromkeys(s.tier for s in scenes):
        here = [i for i, s in enumerate(scenes) if s.tier == tier]
        tiers[tier] = _share(torch.cat([hits[i] for i in here])) | {"kept": fmean(counts[i] for i in here)}
    kinds = [q.kind for _, asked in world.items for q in asked]
    by_kind = {k: _share(flat[torch.tensor([i for i, x in enumerate(kinds) if x == k])]) for k in dict.fromkeys(kinds)}
    return {
        **_share(flat),
        "kept": fmean(counts),
        "kept_deviation": pstdev(counts),
        "kept_range": [min(counts), max(counts)],
        "correlation_with_things": correlation(counts, things) if pstdev(counts) > 0 else None,
        "tiers": tiers,
        "kinds": by_kind,
        "right": "".join(str(int(x)) for x in flat),
    }


def _share(right: Tensor) -> dict[str, Any]:
    n, k = len(right), int(right.sum())
    low, high = wilson(k, n)
    return {"n": n, "percent": 100 * k / n, "interval": [100 * low, 100 * high]}


def against(one: Sequence[Tensor], other: Sequence[Tensor]) -> dict[str, Any]:
    """Paired difference in percent with its 95% interval over scenes, and the exact McNemar test over questions."""
    gains = [float(a.sum() - b.sum()) for a, b in zip(one, other, strict=True)]
    sizes = [len(a) for a in one]
    mean = sum(gains) / sum(sizes)
    # A ratio of sums over scenes: the questions of a scene share its image and its selection.
    spread = math.sqrt(sum((g - mean * n) ** 2 for g, n in zip(gains, sizes, strict=True))) / sum(sizes)
    return {
        "difference": 100 * mean,
        "interval": [100 * (mean - 1.96 * spread), 100 * (mean + 1.96 * spread)],
        "p": paired(torch.cat(list(one)).bool(), torch.cat(list(other)).bool()),
    }


def shared(one: str, other: str, sizes: Sequence[int]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Two ways' stored answers, scene by scene, of the first scenes, of which both were asked.

    Args:
        one: a character a question.
        other: the same.
        sizes: questions of each scene.
    """
    n = min(len(one), len(other))
    of = sizes[: list(accumulate(sizes)).index(n) + 1]
    first, second = (torch.tensor([c == "1" for c in right[:n]]).split(list(of)) for right in (one, other))
    return first, second


def among(
    both: tuple[Sequence[Tensor], Sequence[Tensor]], wanted: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Of two ways' answers, scene by scene, those to the questions that are wanted; scenes without any are left out."""
    one, other = zip(*((a[w], b[w]) for a, b, w in zip(*both, wanted, strict=False) if w.any()), strict=True)
    return one, other


def said(pair: Mapping[str, Any], digits: int = 1) -> str:
    """A paired difference in words."""
    gap, low, high = (f"{x:+.{digits}f}" for x in (pair["difference"], *pair["interval"]))
    return f"{gap} ({low} to {high}), p {pair['p']:.2g}"


def others(known: dict[str, Any], mine: str, budget: str, per_scene: list[int]) -> dict[str, Any]:
    """What other ways answered on the same scenes: those of `sts.py`, `sts_rivals.py` and other runs of this script."""
    ways = dict(known.get(f"evaluate/{budget}", {}).get("ways", {}))
    ways |= known.get(f"rivals/{budget}", {}).get("ways", {})
    for entry, facts in known.items():
        name, _, at = entry.partition("/")
        if at == budget and "lead" in facts:
            ways |= {f"{name}, {kind}": f for kind, f in facts["ways"].items() if name != mine}
    n = sum(per_scene)
    right = {w: [c == "1" for c in f["right"][:n]] for w, f in ways.items() if len(f["right"]) >= n}
    return {w: torch.tensor(r).split(per_scene) for w, r in right.items()}


def table(name: str, entry: dict[str, Any]) -> Table:
    """One budget's ways, best first."""
    grid = Table(title=f"{name}: {entry['budget']} of 576 tokens on average, {entry['scenes']} test scenes")
    tiers = list(next(iter(entry["ways"].values()))["tiers"])
    for column in ("way", "right, %", "95%", "kept", "sd", "r", *tiers, "sts minus it", "p"):
        grid.add_column(column, justify="left" if column == "way" else "right")
    for way, f in sorted(entry["ways"].items(), key=lambda x: -x[1]["percent"]):
        low, high = f["interval"]
        r = f["correlation_with_things"]
        pair = entry["sts_against"].get(way)
        gap = ("", "")
        if pair is not None:
            a, b = pair["interval"]
            gap = (f"{pair['difference']:+.1f} ({a:+.1f} to {b:+.1f})", f"{pair['p']:.2g}")
        each = (f"{t['percent']:.1f} ({t['kept']:.0f})" for t in f["tiers"].values())
        spread = f"{f['kept_deviation']:.1f}"
        follows = "" if r is None else f"{r:.2f}"
        grid.add_row(
            way, f"{f['percent']:.1f}", f"{low:.1f}-{high:.1f}", f"{f['kept']:.1f}", spread, follows, *each, *gap
        )
    return grid


def draw(world: World, path: Walk, standing_BT: Tensor, file: Path, each: int = 2) -> None:
    """Scenes of every tier with their picks numbered, from the first (yellow) to the last (blue)."""
    found: dict[str, list[int]] = {}
    for i, tier in enumerate(world.tiers):
        if len(found.setdefault(tier, [])) < each:
            found[tier].append(i)
    side = GRID * PATCH * _SCALE
    sheet = Image.new("RGB", (each * (side + 8) + 8, len(found) * (side + 8) + 8), "white")
    for row, numbers in enumerate(found.values()):
        for column, i in enumerate(numbers):
            picture = world.scenes[i].image.resize((side, side), Image.Resampling.NEAREST).convert("RGB")
            picture = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.35)
            pen = ImageDraw.Draw(picture)
            order = path.order_BT[i][standing_BT[i]].tolist()
            for rank, token in enumerate(order):
                y, x = (v * PATCH * _SCALE for v in divmod(token, GRID))
                share = rank / max(1, len(order) - 1)
                ink = (round(235 * (1 - share)), round(170 * (1 - share) + 60 * share), round(220 * share))
                pen.rectangle((x, y, x + PATCH * _SCALE - 1, y + PATCH * _SCALE - 1), outline=ink, width=2)
                pen.text((x + 4, y + 6), str(rank + 1), fill=ink)
            sheet.paste(picture, (8 + column * (side + 8), 8 + row * (side + 8)))
    sheet.save(file)
