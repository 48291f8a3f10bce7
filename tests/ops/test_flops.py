"""Analytic FLOPs against PyTorch's own counter, on the decoders of all shapes that the zoo has."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo
from foveate import attach
from foveate.bench.shape import decoder_shape, prefill_flops
from foveate.families import FAMILIES
from foveate.methods import METHODS
from foveate.ops.flops import DecoderShape, decoder_flops, layer_flops


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
    llama = DecoderShape(4096, 11008, 32, 32, 128, 32064)
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    dense = 2 * 640 * weights
    assert decoder_flops([640] * 32, llama) == pytest.approx(dense, rel=0.03)
    assert decoder_flops([128] * 32, llama) < 0.21 * decoder_flops([640] * 32, llama)


def test_a_decoding_step_attends_to_all_before_it() -> None:
    shape = DecoderShape(8, 16, 2, 1, 4, 10)
    assert layer_flops(1, shape, context=100) - layer_flops(1, shape, context=1) == 4 * 99 * 8


def test_experts_are_not_guessed_at() -> None:
    model = zoo.build("llava")
    assert decoder_shape(model) is not None
    model.config.get_text_config().num_experts = 8
    assert decoder_shape(model) is None
    assert prefill_flops(model, [9], 3, None, 4) is None
