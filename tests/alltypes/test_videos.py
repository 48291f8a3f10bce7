"""Videos of the families that came later: answers of ragged batches, greedy and by beams, masked, and cut early."""

from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from alltypes import yardsticks
from alltypes.prompts import base, picture
from alltypes.test_rich import FILMED, Tower
from alltypes.test_types import CLOSE, STAGES, STEPS, generate
from alltypes.tiny import BESIDES, build
from foveate import Cut, Plan, attach
from foveate.families import FAMILIES
from zoo import Row, Shown, side_by_side

ROWS = [Row([3, (0,), 7], 1), Row([9, (1,), 6], 2), Row([12], 3)]
"""Words and videos, by their numbers."""


@cache
def model_of(name: str, kernel: str | None = None) -> Any:
    return build(name, kernel)


def film(name: str, which: int) -> dict[str, torch.Tensor]:
    """Encoder arguments of one video; where a type takes videos of any length, they differ."""
    g = torch.Generator().manual_seed(which)
    frames = 3 - which
    if name == "kimi_k25":
        grid = torch.tensor([[frames, 4, 8 - 4 * which]])
        return {"pixel_values_videos": torch.randn(int(grid.prod()), 3, 4, 4, generator=g), "video_grid_thw": grid}
    if name == "gemma4":
        still = [picture(name, model_of(name).config, (4, 6 - 2 * which), 10 * which + i) for i in range(frames)]
        pixels, spots = (torch.cat([p[key] for p in still]) for key in ("pixel_values", "image_position_ids"))
        frames_of = {"num_frames_per_video": torch.tensor([frames])}
        return {"pixel_values_videos": pixels, "video_position_ids": spots} | frames_of
    return {"pixel_values_videos": torch.randn(1, 3, 3, 16, 16, generator=g)}


def length(name: str, args: dict[str, torch.Tensor]) -> int:
    """Tokens of a video, as its encoder gives them."""
    with torch.no_grad():
        features = base(model_of(name)).get_video_features(**args, return_dict=True).pooler_output
    each = [features] if isinstance(features, torch.Tensor) else features
    return sum(x.shape[:-1].numel() for x in each)


def batch(name: str, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Prompts side by side, padded on the left."""
    video = model_of(name).config.video_token_id

    def show(_row: Row, _j: int, part: Any) -> Shown:
        args = film(name, part[0])
        return args, [[video] * length(name, args)], 2

    inputs, kinds, pictures = side_by_side(rows, show, lowest=4)
    films = [args for mine in pictures for args in mine]
    if name == "gemma4":
        inputs["mm_token_type_ids"] = kinds
    return inputs | ({key: torch.cat([f[key] for f in films]) for key in films[0]} if films else {})


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", FILMED)
def test_a_batch_of_videos_is_its_prompts(name, beams):
    model = model_of(name)
    with torch.no_grad(), attach(model, STAGES):
        told = generate(model, batch(name, ROWS), num_beams=beams)
        alone = [generate(model, batch(name, [row]), num_beams=beams) for row in ROWS]
    for r, one in enumerate(alone):
        assert torch.equal(told.sequences[r, -STEPS:], one.sequences[0, -STEPS:])
        if beams == 1:
            for a, b in zip(told.logits, one.logits, strict=True):
                assert_close(a[r], b[0], **CLOSE)


@pytest.mark.parametrize("name", FILMED)
def test_answers_about_cut_videos_are_those_of_masked_ones(name):
    model, inputs = model_of(name), batch(name, ROWS)
    video = model.config.video_token_id
    with torch.no_grad(), attach(model, STAGES) as attached:
        told, report = generate(model, inputs), attached.report
    assert [i.kind for i in report.images] == ["video", "video"]
    assert all(i.per_layer[-1] < i.tokens for i in report.images)
    blind = model_of(name, "holes")
    with torch.no_grad(), yardsticks.masked(blind, report, inputs, video):
        want = generate(blind, inputs)
    for a, b in zip(told.logits, want.logits, strict=True):
        assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", FILMED)
def test_answers_are_the_same_whether_videos_are_cut_before_the_projector_or_behind(name):
    model, inputs = model_of(name), batch(name, ROWS)
    told = []
    for at in ("encoder", "input"):
        with torch.no_grad(), attach(model, Plan((Cut(at, Tower(), 0.5),))) as attached:
            told.append((generate(model, inputs), [i.cuts[-1].kept for i in attached.report.images]))
    assert told[0][1] == told[1][1]
    for a, b in zip(told[0][0].logits, told[1][0].logits, strict=True):
        assert_close(a, b, **CLOSE)


def test_what_fills_no_cell_of_an_odd_frame_falls_away():
    """Five patches a side, pooled by two: the rows that signals speak of are those that the projector gets."""
    name = "llava_next_video"
    with patch.dict(BESIDES, {name: BESIDES[name] | {"vision_config": {"image_size": 20}}}):
        model = build(name)
    inner, family = base(model), FAMILIES[name]
    args = {"pixel_values_videos": torch.randn(2, 3, 3, 20, 20, generator=torch.Generator().manual_seed(1))}
    tap, seen = family.tap(inner, frozenset({"encoder_BNC"}), args), []
    handles = [*tap.hooks(), inner.multi_modal_projector.register_forward_pre_hook(lambda _m, a: seen.append(a[0]))]
    with torch.no_grad():
        features = inner.get_video_features(**args, return_dict=True).pooler_output
    for handle in handles:
        handle.remove()
    assert_close(tap.signals().encoder, seen[0].flatten(0, -2), rtol=1e-5, atol=1e-6)
    assert [u.tokens for u in family.units(inner, "video", args)] == [3 * 2 * 2] * 2
    assert sum(x.shape[:-1].numel() for x in features) == 2 * 3 * 2 * 2
