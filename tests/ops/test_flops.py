"""The formula counts what PyTorch's own counter counts."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from foveate.errors import PlanError
from foveate.ops.flops import LayerShape, prefill_flops, visual_share


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize(("heads", "kv", "head"), [(4, 4, 8), (4, 2, 8), (8, 1, 16)])
def test_a_llama_layer(n, heads, kv, head):
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=heads, num_key_value_heads=kv, head_dim=head,
        num_hidden_layers=2, vocab_size=10,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = LlamaModel(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.layers[0](torch.randn(1, n, 32), position_embeddings=(torch.ones(1, n, head), torch.zeros(1, n, head)))
    shape = LayerShape.of(config)
    assert shape.flops(n) == counter.get_total_flops()
    assert prefill_flops(shape, [n, n - 1], 1) == shape.flops(n + 1) + shape.flops(n)


def test_the_visual_share_runs_from_none_to_all():
    shape = LayerShape(32, 48, 4, 2, 8)
    assert visual_share(shape, [0] * 4, 100, 9) == 0
    assert visual_share(shape, [100] * 4, 100, 9) == 1
    assert visual_share(shape, [100, 0, 0, 0], 100, 9) == pytest.approx(0.25)
    assert shape.flops(3, past=10) == pytest.approx(shape.flops(3) + 4 * 3 * 10 * 32)
    assert shape.flops(3) > LayerShape(32, 48, 4, 2, 8, gated=False).flops(3)


def test_a_shape_of_nothing():
    with pytest.raises(PlanError, match="kv_heads is 0"):
        LayerShape(32, 48, 4, 0, 8)


class Differing(SimpleNamespace):
    """As Gemma 4's: a number that is another one in each layer is not told."""

    @property
    def head_dim(self):
        raise RuntimeError("head_dim is a per-layer attribute")


TOLD = {"hidden_size": 32, "num_attention_heads": 4}


@pytest.mark.parametrize("config", [Differing(**TOLD, intermediate_size=48), SimpleNamespace(**TOLD, head_dim=8)])
def test_configs_that_tell_no_shape(config):
    assert LayerShape.of(config) is None
