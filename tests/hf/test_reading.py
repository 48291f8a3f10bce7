"""A cut at the encoder reads the question that a cut at the input reads, whoever calls the model, and however."""

from typing import Any

import pytest
import torch

from foveate import SignalError, attach
from foveate.plan import Cut, Plan
from foveate.selection import Selection, TokenView
from zoo import NAMES, SIZES, Row, batch, shared


class Reader:
    """Notes the words it is shown, and keeps the first tokens."""

    reads, adaptive = frozenset({"hidden_BND", "text_BTD"}), False

    def __init__(self) -> None:
        self.words: list[torch.Tensor] = []

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.words += list(view.need("text_BTD"))
        first = torch.arange(view.shape[1], device=view.device).expand(view.shape) < k
        return Selection(first)


def seen(name: str, at: Any, call: str = "forward", **options: Any) -> list[torch.Tensor]:
    reader, model = Reader(), shared(name)
    rows = [Row([2, 5, ("image", SIZES[name][-1]), 9, 11, 12, 13], 1), Row([3, ("image", SIZES[name][0]), 8, 7, 6], 2)]
    inputs = batch(name, rows).inputs
    with torch.no_grad(), attach(model, Plan((Cut(at, reader, 0.5),)), tail=1):
        model(**inputs) if call == "forward" else model.generate(**inputs, max_new_tokens=2, do_sample=False, **options)
    return sorted(reader.words, key=lambda w: (len(w), float(w.sum())))


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_those_of_the_input(name: str) -> None:
    wanted = {(len(w), round(float(w.double().sum()), 3)) for w in seen(name, "input")}
    for call, options in (("forward", {}), ("generate", {}), ("generate", {"num_beams": 2})):
        found = {(len(w), round(float(w.double().sum()), 3)) for w in seen(name, "encoder", call, **options)}
        assert found == wanted and len(found) == 2


def test_what_has_no_ids_is_refused_and_generate_given_back() -> None:
    model, reader = shared("llava"), Reader()
    inputs = batch("llava", [Row([2, ("image", SIZES["llava"][0]), 9, 11], 1)]).inputs
    with torch.no_grad(), attach(model, Plan((Cut("encoder", reader, 0.5),))):
        with pytest.raises(SignalError, match="ids are not known"):
            model.model.get_image_features(pixel_values=inputs["pixel_values"])
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        with pytest.raises(SignalError, match="ids are not known"):
            model(inputs_embeds=embeds, **{k: v for k, v in inputs.items() if k != "input_ids"})
        model(**inputs)
    assert "generate" not in model.__dict__
