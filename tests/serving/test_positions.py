"""Positions of a pruned prompt: those of the unpruned one, put together from what two processes know."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from foveate.engines.vllm.positions import AXES, Run, decode, encode, shifted, stretch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_places_survive_every_float_type(dtype):
    places = torch.tensor([[0, 1, 2], [255, 256, 257], [65535, 515, 0]])
    assert torch.equal(decode(encode(places, dtype)), places)


def test_stretching_and_choosing_gives_the_unpruned_positions():
    # Text, an image of 6 of which 2 stay, text, an image of 4 that stays whole, text.
    whole = torch.arange(3 + 6 + 2 + 4 + 1)
    kept = [torch.tensor([1, 4]), torch.arange(4)]
    tokens = [1, 2, 3, 50, 50, 4, 5, 50, 50, 50, 50, 6]
    runs = [Run(3, 2, 6), Run(7, 4, 4)]
    ids, places = stretch(tokens, runs)
    assert ids == [1, 2, 3, *[50] * 6, 4, 5, *[50] * 4, 6]
    base = whole[places]
    for run, which in zip(runs, kept, strict=True):
        base[run.start : run.start + run.kept] += which
    assert base.tolist() == [0, 1, 2, 4, 7, 9, 10, 11, 12, 13, 14, 15]


def test_a_prompt_without_images_is_itself():
    ids, places = stretch([1, 2, 3], [])
    assert ids == [1, 2, 3] and places.tolist() == [0, 1, 2]


@dataclass
class Where:
    offset: int
    length: int


@dataclass
class Feature:
    mm_position: Where
    name: str = field(default="")


def test_features_move_with_what_grew_before_them():
    features = [Feature(Where(3, 2)), Feature(Where(7, 4))]
    moved = shifted(features, [4, 0])
    assert moved == [replace(features[0], mm_position=Where(3, 6)), replace(features[1], mm_position=Where(11, 4))]
    assert AXES == 3
