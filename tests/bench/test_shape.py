"""A model's analytic FLOPs against PyTorch's own counter, on the decoders of all shapes that the zoo has."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo
from foveate import attach
from foveate.bench.shape import decoder_shape, prefill_flops
from foveate.hf.families import FAMILIES
from foveate.methods import METHODS
from foveate.ops.flops import LayerShape
from foveate.ops.flops import prefill_flops as layers_flops


def counted(name: str, inputs: dict[str, torch.Tensor]) -> int:
    """What the decoder and the head spend on one forward pass; the tower and the projector are counted apart."""
    model = zoo.shared(name, "eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    flops = counter.get_flop_counts()
    decoder = FAMILIES[name].language_model(model)
    path = next(n for n, m in model.named_modules() if m is decoder)
    kind = type(model).__name__
    return sum(sum(flops[f"{kind}.{part}"].values()) for part in (path, "lm_head"))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("method", [None, "uniform", "fastv"])
def test_as_the_counter_counts(name: str, method: str | None) -> None:
    model = zoo.shared(name, "eager")
    size = zoo.SIZES[name][-1]
    batch = zoo.batch(name, [zoo.Row([3, ("image", size), 12])])
    visual = int((batch.inputs["input_ids"] == zoo.IMAGE).sum())
    if method is None:
        mine = prefill_flops(model, [batch.length], visual, None, zoo.DEPTH)
        theirs = counted(name, batch.inputs)
    else:
        with attach(model, METHODS[method](keep=0.5)) as attached:
            theirs = counted(name, batch.inputs)
            mine = prefill_flops(model, [batch.length], visual, attached.report, zoo.DEPTH)
    # Rotary tables are outer products to the counter; raters' attention is the method's own.
    assert mine == pytest.approx(theirs, rel=0.02)


def test_the_7b_decoder_by_hand() -> None:
    """Llama-2-7B on LLaVA-1.5's 576 tokens and 64 words: about two operations a weight and token."""
    llama = LayerShape(4096, 11008, 32, 32, 128)
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert layers_flops(llama, [576] * 32, 64) == pytest.approx(2 * 640 * weights, rel=0.03)
    assert layers_flops(llama, [64] * 32, 64) < 0.21 * layers_flops(llama, [576] * 32, 64)


def test_experts_are_not_guessed_at() -> None:
    model = zoo.build("llava")
    assert decoder_shape(model) is not None
    model.config.get_text_config().num_experts = 8
    assert decoder_shape(model) is None
    assert prefill_flops(model, [9], 3, None, 4) is None
