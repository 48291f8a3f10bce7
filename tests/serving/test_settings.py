"""What is asked of a server: one text for each different order, budgets that hold, refusals with the way out."""

import json
from dataclasses import replace
from functools import reduce

import pytest
import torch

from foveate import methods
from foveate.engines.vllm.filling import at_cap, fill, merges
from foveate.engines.vllm.hook import PREFIX, TESTED, check_version, renamed
from foveate.engines.vllm.limits import check_room, make_room
from foveate.engines.vllm.settings import Order, Wish, order, parse, question_ids, read, write
from foveate.errors import FoveateError, ModelError, PlanError
from foveate.plan import Plan
from foveate.selection import TokenView

SERVER = read({"method": "divprune", "keep": 0.25}, depth=10, ours=True)


def test_a_method_a_plan_and_its_json_mean_the_same():
    plan = methods.divprune(keep=0.25)
    for value in ({"method": "divprune", "keep": 0.25}, json.loads(plan.to_json()), plan.to_json()):
        assert read(value, depth=10) == Wish(plan)
    assert read("all", 10) == read(None, 10) == Wish(None)


def test_the_text_is_one_to_one():
    orders = [
        order(read(value, 10), SERVER, images)
        for value, images in (
            ("all", 1), ({"method": "divprune", "keep": 0.25}, 1), ({"method": "divprune", "keep": 64}, 1),
            ({"method": "random", "keep": 64}, 1), ({"method": "random", "keep": 64, "seed": 1}, 1),
            ({"method": "divprune", "keep": 0.25, "image_tokens": 50}, 1),
        )
    ]  # fmt: skip
    orders.append(Order(methods.divprune(keep=0.25), None, (5, 6)))
    texts = [write(o) for o in orders]
    assert len(set(texts)) == len(texts)
    assert [parse(t) for t in texts] == orders
    noted = methods.divprune(keep=0.25)
    object.__setattr__(noted, "note", "why")
    assert write(Order(noted)) == texts[1], "what does not choose is not hashed"


@pytest.mark.parametrize(
    ("asked", "server", "images", "n", "k"),
    [
        (None, {"method": "divprune", "keep": 0.25}, 1, 576, 144),
        ("all", {"method": "divprune", "keep": 0.25}, 1, 576, 576),
        ({"image_tokens": 100}, {"method": "random", "keep": 0.25}, 1, 576, 100),
        ({"image_tokens": 100}, {"method": "random", "keep": 0.25}, 1, 50, 50),
        ({"request_tokens": 100}, {"method": "random", "keep": 0.25}, 3, 576, 33),
        ("all", {"image_tokens": 64}, 1, 576, 64),
        ({"method": "divprune", "keep": 0.5}, {"method": "divprune", "keep": 0.1, "image_tokens": 64}, 1, 576, 64),
        ({"method": "divprune", "keep": 0.5, "image_tokens": 10}, {"image_tokens": 64}, 1, 576, 10),
    ],
)
def test_budgets_are_hard_and_the_servers_bound_everyone(asked, server, images, n, k):
    found = order(None if asked is None else read(asked, 10), read(server, 10, ours=True), images)
    assert found.count(n) == k


def test_who_said_nothing_gets_the_servers_method_under_a_budget():
    server = read({"method": "random", "keep": 0.25}, 10, ours=True)
    assert type(order(read({"image_tokens": 9}, 10), server, 1).cut.select).__name__ == "Random"
    assert type(order(read({"image_tokens": 9}, 10), Wish(), 1).cut.select).__name__ == "Farthest"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"method": "divprun", "keep": 0.5}, "did you mean 'divprune'"),
        ({"method": "divprune", "keep": 0}, "at least 1"),
        ({"method": "divprune", "kep": 0.5}, "did you mean 'keep'"),
        ({"metod": "divprune", "keep": 0.5}, "did you mean 'method'"),
        ({"image_tokens": 0}, "at least 1"),
        ({"image_tokens": True}, "whole number"),
        ([1], '"all"'),
        ("half", "neither"),
        ("[" * 100_000, "neither"),
        ({"method": "tops", "keep": 0.5, "layers": reduce(lambda inside, _: [inside], range(5_000), 1)}, "too deeply"),
        ({"foveate_plan": 2, "cuts": []}, "version 2"),
        ({"method": "sts", "keep": 0.1, "path": "/etc"}, "only the server may ask"),
        ({"method": "os:system", "keep": 0.1}, "no method"),
        ({"method": "cdpruner", "keep": 0.1, "text_tower": "x/y"}, "only the server may ask"),
        ({"foveate_plan": 1, "cuts": [{"at": "input", "select": {"kind": "foveate.pointer.selector:PointerSelector",
          "saved": "/etc"}, "keep": 0.1}]}, "only the server may"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_words(value, why):
    with pytest.raises(PlanError, match=why):
        read(value, depth=10)


def test_more_images_than_tokens_are_refused():
    with pytest.raises(PlanError, match="fewer than the request's 9 images"):
        order(read({"request_tokens": 8}, 10), SERVER, 9)


def test_a_number_is_at_most_unless_the_cut_says_exactly():
    assert order(read({"method": "divprune", "keep": 200}, 10), SERVER, 1).count(100) == 100
    assert order(read({"image_tokens": 200}, 10), SERVER, 1).count(100) == 100
    plan = methods.divprune(keep=200)
    exact = Plan((replace(plan.cuts[0], exact=True),))
    with pytest.raises(PlanError, match="100 tokens"):
        order(read(exact.to_json(), 10), SERVER, 1).count(100)


def test_adaptive_selectors_run_at_their_cap():
    select = at_cap(methods.sms(keep=0.5, stages=1).cuts[0].select)
    score = torch.rand(2, 64, generator=torch.Generator().manual_seed(0))
    kept = select(TokenView(cls_attn_BN=score), 24).keep_BN
    assert (kept.sum(1) == 24).all()
    # The best 24, as with a head that is long enough.
    assert set(score[0].topk(20).indices.tolist()) <= set(kept[0].nonzero().flatten().tolist())


@pytest.mark.parametrize(("have", "k"), [([], 5), ([3], 5), ([0, 1, 2, 3, 4], 5), ([9], 10)])
def test_what_is_missing_is_filled_up_in_order(have, k):
    kept, mix = fill(torch.tensor(have, dtype=torch.long), None, 10, k)
    assert len(kept) == k == len(set(kept.tolist())) and kept.tolist() == sorted(kept.tolist())
    assert set(have) <= set(kept.tolist()) and mix is None
    weights = torch.full((len(have), 10), 0.1)
    kept, mix = fill(torch.tensor(have, dtype=torch.long), weights, 10, k)
    for place, row in zip(kept.tolist(), mix, strict=True):
        want = torch.full((10,), 0.1) if place in have else torch.nn.functional.one_hot(torch.tensor(place), 10).float()
        torch.testing.assert_close(row, want)


@pytest.mark.parametrize(("plan", "mixes"), [
    (methods.divprune(keep=0.5), False), (methods.fastervlm(keep=0.5), False), (methods.cdpruner(keep=0.5), False),
    (methods.pool(keep=0.5), True), (methods.tome(keep=0.5), True), (methods.visionzip(keep=0.5), True),
])  # fmt: skip
def test_merging_is_seen_beforehand(plan, mixes):
    assert merges(plan.cuts[0].select) is mixes


def test_the_question_is_found_without_template_images_or_markers():
    ids = [1, 7, 50, 20, 21, 2, 22, 8, 9]
    assert question_ids(ids, frozenset({50}), frozenset({1, 2}), tail=2) == (20, 21, 22)


class Config:
    """A model's config, with one decoder."""

    def __init__(self, **rope):
        self.max_position_embeddings, self.rope_parameters = 1000, rope

    def get_text_config(self):
        return self


def ready(**rope):
    config = Config(**rope)
    make_room(type("ModelConfig", (), {"hf_config": config, "max_model_len": 600})())
    return config


def test_prompts_are_refused_by_their_unpruned_length():
    config = ready(rope_type="default")
    assert config.max_position_embeddings == 1600, "decoding goes on from the unpruned length"
    make_room(type("ModelConfig", (), {"hf_config": config, "max_model_len": 600})())
    assert config.max_position_embeddings == 1600, "once"
    check_room(config, 100, 900, 600)
    with pytest.raises(PlanError, match="1001 positions"):
        check_room(config, 100, 901, 600)
    check_room(config, 5000, 0, 600)  # nothing dropped: vLLM's own affair


def test_a_table_that_cannot_grow_leaves_room_for_the_answer():
    config = ready(rope_type="yarn")
    assert config.max_position_embeddings == 1000
    check_room(config, 100, 400, 600)
    with pytest.raises(PlanError, match="a smaller --max-model-len"):
        check_room(config, 100, 401, 600)


def test_versions_and_models_are_refused_only_by_name(monkeypatch):
    from foveate.engines.vllm import hook

    monkeypatch.setattr(hook, "vllm_version", lambda: TESTED[0] + "9")
    assert renamed(["LlavaForConditionalGeneration"]) == [PREFIX + "LlavaForConditionalGeneration"]
    with pytest.raises(ModelError, match="is not served with one"):
        renamed(["LlamaForCausalLM"])
    monkeypatch.setattr(hook, "vllm_version", lambda: "9.9")
    with pytest.raises(ModelError, match=r"this is vLLM 9\.9.*tested with 0\.32"):
        check_version()
    monkeypatch.setattr(hook, "vllm_version", lambda: None)
    with pytest.raises(ModelError, match="not installed here; pip install "):
        check_version()


def test_registering_never_stops_a_vllm(monkeypatch):
    from foveate.engines import vllm as plugin
    from foveate.engines.vllm import hook

    def broken():
        raise ImportError("moved")

    monkeypatch.setattr(hook, "install", broken)
    plugin.register()


def test_every_refusal_is_foveates():
    assert issubclass(ModelError, FoveateError) and issubclass(PlanError, ValueError)
