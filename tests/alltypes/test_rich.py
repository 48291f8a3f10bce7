"""Families beside the seven whose towers are known: counts, grids, signals as the tower has them, encoder cuts."""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import softmax
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from alltypes.prompts import Row, base, batch, count, picture, sizes, together
from alltypes.tiny import VARIANTS, build
from foveate import Cut, ModelError, Plan, Selection, attach
from foveate.families import FAMILIES
from foveate.hf.families import family
from foveate.methods import METHODS
from foveate.methods.pool import Pool
from masked import places
from zoo import NAMES as LAWS

RICH = [*sorted(set(FAMILIES) - set(LAWS)), "pixtral"]
OTHERS = [name for name in VARIANTS if name not in RICH]
POOLED = ("gemma3",)
FILMED = ("gemma4", "kimi_k25", "llava_next_video", "video_llava")
CALLS = [pytest.param(n, "image", id=n) for n in RICH] + [pytest.param(n, "video", id=f"{n}-video") for n in FILMED]
READS = frozenset({"cls_attn_BN", "encoder_BNC", "keys_BNC"})


@cache
def model_of(name: str) -> Any:
    return build(name, "eager")


def call(name: str, kind: str = "image") -> dict[str, torch.Tensor]:
    """Two pictures of different sizes, or two videos of some frames, in one encoder call."""
    if kind == "video" and name == "gemma4":
        still = [picture(name, model_of(name).config, (4, 6), i) for i in range(5)]
        pixels, spots = (torch.cat([p[key] for p in still]) for key in ("pixel_values", "image_position_ids"))
        frames = {"num_frames_per_video": torch.tensor([3, 2])}
        return {"pixel_values_videos": pixels, "video_position_ids": spots} | frames
    if kind == "video" and name == "kimi_k25":
        grid = torch.tensor([[3, 4, 8], [2, 4, 4]])
        noise = torch.randn(int(grid.prod(1).sum()), 3, 4, 4, generator=torch.Generator().manual_seed(5))
        return {"pixel_values_videos": noise, "video_grid_thw": grid}
    if kind == "video":
        return {"pixel_values_videos": torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(5))}
    config = model_of(name).config
    return together(name, [[picture(name, config, s, i)] for i, s in enumerate((sizes(name)[0], sizes(name)[-1]))])


def encoded(name: str, kind: str, args: dict[str, torch.Tensor]) -> int:
    """Tokens of a call, as the encoder gives them."""
    if kind == "image":
        return count(name, model_of(name), args)
    with torch.no_grad():
        return sum(len(x) for x in videos(name, args))


def videos(name: str, args: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Each video's tokens, as the encoder gives them."""
    features = base(model_of(name)).get_video_features(**args, return_dict=True).pooler_output
    return list(features.reshape(2, -1, features.shape[-1]) if isinstance(features, torch.Tensor) else features)


@dataclass(frozen=True)
class Tower:
    """Keeps by the tower's features, and shows what it was shown."""

    seen: Any = None
    reads: ClassVar[frozenset[str]] = READS
    adaptive: ClassVar[bool] = False

    def __call__(self, view: Any, k: int) -> Selection:
        if self.seen is not None:
            self.seen.append(view)
        return Selection.top(view.need("encoder_BNC").float().sum(-1) + view.need("cls_attn_BN"), k)


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_counts_are_the_encoders_and_grids_cover_them(name, kind):
    args = call(name, kind)
    units = family(model_of(name)).units(base(model_of(name)), kind, args)
    assert sum(u.tokens for u in units) == encoded(name, kind, args)
    # All but one [CLS] a frame.
    outside = 3 if (name, kind) == ("video_llava", "video") else 0
    assert all(sum(b.size for b in u.grid) == u.tokens - outside for u in units)


class Shares(TorchFunctionMode):
    """Writes down every softmax over keys."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is softmax and out.ndim == 4:
            self.of.append(out)
        return out


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_tower_attention_is_the_towers_own(name, kind):
    """Attention received in the feature layer, from the softmax that the tower itself computes."""
    model, args = model_of(name), call(name, kind)
    inner, own = base(model), family(model)
    tap = own.tap(inner, READS, args)
    handles = tap.hooks()
    with torch.no_grad(), Shares() as shares:
        encoded(name, kind, args)
    for handle in handles:
        handle.remove()
    vision = model.config.vision_config
    depth = getattr(vision, "num_hidden_layers", None) or vision.depth
    # A tower may stop at the layer that is read.
    calls = max(1, len(shares.of) // depth)
    at = depth + getattr(model.config, "vision_feature_layer", -1)
    layer = tap.shown()
    got = received(name, shares.of[at * calls :][:calls], inner, args)
    want = layer.rows(got[:, int(layer.cls and not layer.whole) :].unsqueeze(-1))
    signals = tap.signals()
    assert_close(signals.cls_attn, want, rtol=1e-4, atol=1e-6)
    rows = own.rows(inner, kind, args)
    assert len(want) == rows == len(signals.encoder) == len(signals.keys)


def received(name: str, shares: list[torch.Tensor], inner: Any, args: Any) -> torch.Tensor:
    """Mean over heads and queries of what each patch receives, or what [CLS] gives it: [B, patches]."""
    if name in ("llava_next_video", "video_llava"):
        return shares[0][:, :, 0].mean(1)
    each = [x.mean((1, 2)) for x in shares]
    if name in ("mistral3", "pixtral"):
        # One row for all pictures, of which each sees itself alone.
        sides = [h * w for h, w in family(model_of(name)).sides(inner, args, 1)]
        return each[0] * each[0].shape[1] / torch.tensor(sides).repeat_interleave(torch.tensor(sides))
    if name in ("gemma4", "lfm2_vl"):
        # Padding neither asks nor is seen.
        real = next(x for key, x in args.items() if key.endswith(("_attention_mask", "_position_ids")))
        real = real.bool() if name == "lfm2_vl" else (real >= 0).all(-1)
        mean = torch.where(real[:, None, :, None], shares[0], 0).sum((1, 2)) / real.sum(1, keepdim=True)
        return (mean / shares[0].shape[1])[real][None]
    return each[0] if len(each) == 1 else torch.cat(each, 1)


MERGED = {
    "idefics3": "connector.modality_projection",
    "kimi_k25": "mm_projector.pre_norm",
    "lfm2_vl": "multi_modal_projector.layer_norm",
    "mistral3": "multi_modal_projector.patch_merger.merging_layer",
    "smolvlm": "connector.modality_projection",
}
"""What takes the merged patches of a token side by side, where a family says itself which they are."""


@pytest.mark.parametrize("name", sorted(MERGED))
def test_a_row_is_of_the_patches_that_the_model_merges(name):
    model, args = model_of(name), call(name)
    inner = base(model)
    tap, seen = family(model_of(name)).tap(inner, READS, args), {}
    tower = getattr(inner, "vision_model", None) or inner.vision_tower
    last = {"mistral3": lambda: inner.multi_modal_projector.norm, "kimi_k25": lambda: tower.final_layernorm}
    handles = [
        *tap.hooks(),
        last.get(name, lambda: tower.post_layernorm)().register_forward_hook(
            lambda _m, _a, out: seen.update(patches=out)
        ),
        inner.get_submodule(MERGED[name]).register_forward_pre_hook(lambda _m, a: seen.update(merged=a[0])),
    ]
    with torch.no_grad():
        count(name, model, args)
    for handle in handles:
        handle.remove()
    patches = seen["patches"] if seen["patches"].ndim == 3 else seen["patches"][None]
    if name == "lfm2_vl":
        patches = patches[args["pixel_attention_mask"].bool()][None]
    wide, merged = patches.shape[-1], seen["merged"]
    merged = merged.flatten(1) if name == "kimi_k25" else merged.flatten(0, -2)
    # Channel by channel in Mistral's unfolding, patch by patch in a shuffle.
    apart = merged.unflatten(1, (wide, -1) if name == "mistral3" else (-1, wide))
    got, want = tap.shown().rows(patches), apart.mean(2 if name == "mistral3" else 1)
    # Row by row, but for rows that become no token.
    for a, b in zip(*(family(model_of(name)).pack(inner, "image", args, x) for x in (got, want)), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_gemma4_pools_the_patches_of_a_row(kind):
    args = call("gemma4", kind)
    inner = base(model_of("gemma4"))
    tap, seen = FAMILIES["gemma4"].tap(inner, READS, args), {}
    norm = inner.embed_vision.embedding_pre_projection_norm
    handles = [*tap.hooks(), norm.register_forward_pre_hook(lambda _m, a: seen.update(pooled=a[0]))]
    encoded("gemma4", kind, args)
    for handle in handles:
        handle.remove()
    rows = tap.signals().encoder
    assert_close(rows * rows.shape[-1] ** 0.5, seen["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*RICH, *OTHERS])
def test_an_encoder_cut_is_an_input_cut_by_the_same_choice(name):
    model = model_of(name)
    rows = [Row([3, sizes(name)[-1], 9], 1), Row([2, sizes(name)[0], 1, sizes(name)[-1], 8], 2), Row([6], 3)]
    inputs = batch(name, model, rows)
    told = []
    for at in ("encoder", "input"):
        with torch.no_grad(), attach(model, Plan((Cut(at, Tower(), 0.5),))) as attached:
            out = model(**inputs).logits
            told.append((out, [i.cuts[-1].kept for i in attached.report.images]))
    assert told[0][1] == told[1][1]
    here = inputs["attention_mask"].bool()
    for (row, _), spots in places(inputs, model.config.image_token_id).items():
        here[row, spots] = False
    assert_close(told[0][0][here], told[1][0][here], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", FILMED)
def test_videos_are_cut_beside_images(name):
    """At the encoder as at the input, and there as the stock model with what is dropped masked."""
    model, film = model_of(name), call(name, "video")
    inputs = batch(name, model, [Row([3, sizes(name)[-1], 9], 1), Row([5, sizes(name)[-1], 7], 2)])
    ids = inputs["input_ids"]
    with torch.no_grad():
        lengths = [len(x) for x in videos(name, film)]
    video = torch.full((2, max(lengths)), model.config.video_token_id)
    video[1, lengths[1] :] = 9
    inputs["input_ids"] = torch.cat((ids, video, ids[:, -6:]), 1)
    inputs = inputs | film | {"attention_mask": torch.ones_like(inputs["input_ids"])}
    if "mm_token_type_ids" in inputs:
        image, moving = (inputs["input_ids"] == getattr(model.config, f"{k}_token_id") for k in ("image", "video"))
        inputs["mm_token_type_ids"] = image + 2 * moving
    told = []
    for at in ("encoder", "input"):
        with torch.no_grad(), attach(model, Plan((Cut(at, Tower(), 0.5),))) as attached:
            told.append((model(**inputs).logits, attached.report.images))
    assert [i.cuts[-1].kept for i in told[0][1]] == [i.cuts[-1].kept for i in told[1][1]]
    assert [(i.row, i.tokens) for i in told[0][1]][1::2] == list(enumerate(lengths))
    here = torch.ones_like(inputs["input_ids"])
    for i, image in enumerate(told[1][1]):
        token = model.config.video_token_id if i % 2 else model.config.image_token_id
        spots = (inputs["input_ids"][image.row] == token).nonzero().flatten()
        dropped = torch.ones(image.tokens, dtype=torch.bool)
        dropped[list(image.cuts[-1].kept)] = False
        here[image.row, spots[dropped]] = 0
    with torch.no_grad():
        original = torch.arange(here.shape[1]).expand_as(here)
        want = model(**inputs | {"attention_mask": here, "position_ids": original}).logits[here.bool()]
    for logits, _ in told:
        assert_close(logits[here.bool()], want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", [*RICH, *OTHERS])
def test_most_methods_run(name):
    model = model_of(name)
    inputs = batch(name, model, [Row([3, sizes(name)[-1], 9], 1)])
    for method in ("divprune", "fastervlm", "uniform", "pool"):
        with torch.no_grad(), attach(model, METHODS[method](keep=0.5)) as attached:
            assert model(**inputs).logits.isfinite().all()
        image = attached.report.images[0]
        assert image.cuts[-1].count < image.tokens


@pytest.mark.parametrize("name", POOLED)
def test_merging_before_a_pooling_projector_is_refused(name):
    model = model_of(name)
    inputs = batch(name, model, [Row([3, sizes(name)[-1], 9], 1)])
    with torch.no_grad(), attach(model, Plan((Cut("encoder", Pool(), 0.5),))), pytest.raises(ModelError, match="merge"):
        model(**inputs)
