"""LLaVA on DINOv2, features of several layers joined: signals are the tower's own, kept tokens those that stay."""

import inspect

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, Dinov2Config, LlamaConfig, LlavaConfig
from transformers.models.dinov2.modeling_dinov2 import Dinov2Attention

from foveate import Cut, ModelError, Plan, Selection, attach
from zoo import IMAGE, TEXT

SIDE = 6
OLD = "q_proj" not in inspect.getsource(Dinov2Attention)
needs_queries = pytest.mark.skipif(
    OLD, reason="older transformers split a DINOv2 layer's projections otherwise: refused"
)


def build(**other):
    torch.manual_seed(0)
    tower = Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=4 * SIDE, patch_size=4, mlp_ratio=2
    )
    given = dict(vision_feature_layer=[0, 2, 3], vision_feature_select_strategy="default") | other
    config = LlavaConfig(
        vision_config=tower, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE, tie_word_embeddings=False, **given
    )
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=0.9 / p.shape[-1] ** 0.5)
    return model


class Spy:
    """Keeps every third token, and what it was shown."""

    adaptive, reads = False, frozenset({"cls_attn_BN", "cls_cos_BN", "encoder_BNC", "keys_BNC"})

    def __call__(self, view, k):
        self.view = view
        return Selection.of(torch.arange(0, view.shape[1], 3).expand(len(view.cls_attn_BN), -1), view.shape[1])


def inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[1, 5, *[IMAGE] * SIDE**2, 9, 11, 12], [1, 7, *[IMAGE] * SIDE**2, 8, 14, 15]])
    return dict(input_ids=ids, pixel_values=torch.randn(2, 3, 4 * SIDE, 4 * SIDE, generator=generator))


@torch.no_grad()
@needs_queries
def test_signals_are_those_of_the_last_joined_layer():
    model, given, spy = build(), inputs(), Spy()
    seen = {}
    layer = model.model.vision_tower.encoder.layer[-1]
    layer.attention.register_forward_hook(lambda m, a, o: seen.update(attention=o[1]))
    layer.register_forward_hook(lambda m, a, o: seen.update(out=o[0] if isinstance(o, tuple) else o))
    with attach(model, Plan((Cut("input", spy, SIDE**2 // 3),))):
        model(**given)
    assert_close(spy.view.cls_attn_BN, seen["attention"].mean(1)[:, 0, 1:], rtol=1e-4, atol=1e-6)
    assert_close(spy.view.encoder_BNC, seen["out"][:, 1:], rtol=1e-4, atol=1e-5)
    cosines = torch.cosine_similarity(seen["out"][:, :1], seen["out"][:, 1:], dim=-1)
    assert_close(spy.view.cls_cos_BN, cosines, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@needs_queries
def test_a_cut_is_the_model_without_those_tokens():
    model, given = build(), inputs()
    image = model.model.get_image_features(given["pixel_values"]).pooler_output
    kept = torch.arange(0, SIDE**2, 3)
    places = torch.cat([torch.tensor([0, 1]), kept + 2, torch.arange(3) + 2 + SIDE**2])
    embedded = model.get_input_embeddings()(given["input_ids"])
    embedded[:, 2 : 2 + SIDE**2] = torch.stack(list(image))
    want = model(inputs_embeds=embedded[:, places], position_ids=places.expand(2, -1)).logits[:, -1]
    with attach(model, Plan((Cut("input", Spy(), SIDE**2 // 3),))):
        found = model(**given).logits[:, -1]
    assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_the_class_token_must_be_dropped():
    with pytest.raises(ModelError, match="only 'default' makes one token a patch"):
        attach(build(vision_feature_select_strategy="full"), Plan((Cut("input", Spy(), 12),)))


@pytest.mark.skipif(not OLD, reason="its queries can be read here")
def test_a_tower_whose_queries_cannot_be_read_is_refused():
    with pytest.raises(ModelError, match="update it"):
        attach(build(), Plan((Cut("input", Spy(), 0.5),)))
