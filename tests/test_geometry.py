"""Geometry without a model: what a serving engine knows of a call before anything is encoded."""

from types import SimpleNamespace

import pytest
import torch

from foveate.geometry import GEOMETRIES
from foveate.geometry.base import Unit, join
from foveate.geometry.tower import TowerLayer, TowerSignals, attention_received, by_image, square_cells, tower_signals
from foveate.hf.families import FAMILIES
from foveate.selection import Block


def config(**vision):
    return SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(**vision)))


def test_llava_knows_its_tokens_from_the_config():
    base = config(image_size=28, patch_size=7)
    units = GEOMETRIES["llava"].units(base, "image", {"pixel_values": torch.empty(2, 3, 28, 28)})
    assert units == [Unit("image", 16, (Block(0, 4, 4),))] * 2


def test_qwen_counts_merged_cells_and_places_them_on_three_axes():
    base = SimpleNamespace(visual=SimpleNamespace(spatial_merge_size=2))
    g = GEOMETRIES["qwen2_vl"]
    (unit,) = g.units(base, "image", {"image_grid_thw": torch.tensor([[1, 4, 6]])})
    assert (unit.tokens, g.span(unit)) == (6, 3)
    assert g.places(unit).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_one_token_one_position_elsewhere():
    unit = Unit("image", 4, (Block(0, 2, 2),))
    assert GEOMETRIES["llava"].places(unit).tolist() == [0, 1, 2, 3] and GEOMETRIES["llava"].span(unit) == 4


def test_tiles_join_into_one_image():
    tile = Unit("image", 4, (Block(0, 2, 2),))
    assert join([tile, tile]) == Unit("image", 8, (Block(0, 2, 2), Block(4, 2, 2)))


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_families_take_their_geometry_from_here(name):
    assert isinstance(FAMILIES[name], type(GEOMETRIES[name])) and FAMILIES[name].model_type == name


def layer(q, k, features, reduce=lambda x: x, cls=True, **more):
    return TowerLayer(
        lambda: q, lambda: k, lambda: k, lambda: features, 0.5, cls, lambda x: square_cells(x, 2), reduce=reduce, **more
    )


READS = frozenset({"cls_attn_BN", "keys_BNC", "encoder_BNC", "cls_cos_BN"})


def test_sharded_heads_say_what_all_heads_say():
    q, k, f = torch.randn(2, 4, 17, 8), torch.randn(2, 4, 17, 8), torch.randn(2, 17, 6)
    whole = tower_signals(layer(q, k, f), READS)
    halves = [
        {name: getattr(tower_signals(layer(q[:, h], k[:, h], f), READS), name) for name in ("cls_attn", "keys")}
        for h in (slice(0, 2), slice(2, 4))
    ]
    for name in ("cls_attn", "keys"):
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, getattr(whole, name))
    # And `reduce` is where a process says so.
    doubled = tower_signals(layer(q, k, f, reduce=lambda x: x * 2), READS)
    torch.testing.assert_close(doubled.cls_attn, whole.cls_attn * 2)
    torch.testing.assert_close(doubled.encoder, whole.encoder)


def test_segments_attend_apart():
    q, k, f = torch.randn(1, 2, 12, 4), torch.randn(1, 2, 12, 4), torch.randn(1, 12, 6)
    shown = TowerLayer(
        lambda: q, lambda: k, lambda: k, lambda: f, 0.5, False, lambda x: x[0], segments=lambda: [0, 4, 12]
    )
    got = tower_signals(shown, frozenset({"cls_attn_BN"})).cls_attn[:, 0]
    want = [attention_received(q[:, :, a:b], k[:, :, a:b], 0.5)[0] for a, b in ((0, 4), (4, 12))]
    torch.testing.assert_close(got, torch.cat(want))


def test_signals_reach_tokens_image_by_image():
    base = config(image_size=28, patch_size=7)
    call = {"pixel_values": torch.empty(2, 3, 28, 28)}
    rows = torch.arange(32.0)
    found = by_image(GEOMETRIES["llava"], base, "image", call, TowerSignals(cls_attn=rows[:, None], keys=rows[:, None]))
    assert [f["cls_attn"].tolist() for f in found] == [list(range(16)), list(range(16, 32))]
    assert found[0]["keys"].shape == (16, 1) and "encoder" not in found[0]
