"""What a prompt's question is not: marks of places, whatever a type's config or its tokenizer calls them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from alltypes.prompts import Row, batch, sizes
from alltypes.tiny import END, START, TYPES, build
from foveate import Cut, ModelError, Plan, Selection, attach
from foveate.question import marked

NAMED = {
    "gemma3": ("boi_token_index", "eoi_token_index"),
    "gemma4": ("boi_token_id", "eoi_token_id", "boa_token_id"),
    "glm4v": ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id"),
    "inkling_mm_model": ("image_bos_token_id", "audio_bos_token_id"),
    "llama4": ("boi_token_index", "eoi_token_index"),
    "molmo2": ("frame_start_token_id", "frame_end_token_id", "low_res_image_start_token_id"),
    "ovis2": ("visual_indicator_token_ids",),
    "qwen2_5_omni_thinker": ("audio_start_token_id", "audio_end_token_id"),
}


@pytest.mark.parametrize("name", [n for n in NAMED if n in TYPES])
def test_what_a_config_names_is_marked(name):
    config = CONFIG_MAPPING[name]()
    found = marked([config, config.get_text_config(), None]).tolist()
    for key in NAMED[name]:
        value = getattr(config, key)
        assert set(value if isinstance(value, list | tuple) else [value]) <= set(found)
    # The word "user" is a word.
    assert getattr(config, "user_token_id", -1) not in found
    assert found == sorted(set(found))


def tokenizer() -> Any:
    """Words, and a tag that no config names."""
    words = Tokenizer(WordLevel({str(i): i for i in range(120)}, unk_token="0"))
    told = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0")
    told.add_tokens([AddedToken("50", special=True), AddedToken("51", special=False)])
    return told


def test_what_a_tokenizer_calls_special_is_marked_and_what_it_merely_added_is_not():
    assert marked((), tokenizer()).tolist() == [0, 50]


@dataclass(frozen=True)
class Reader:
    """Keeps the first, and shows what text it was given."""

    seen: list[torch.Tensor]
    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_BTD"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: Any, k: int) -> Selection:
        self.seen.append(view.need("text_BTD")[0])
        return Selection.of(torch.arange(k).expand(view.shape[0], -1), view.shape[1])


@pytest.mark.parametrize("name", ["gemma3", "glm4v", "idefics3"])
def test_the_question_is_words_alone(name):
    """Marks between two images are not in it: of the config's, or of the tokenizer's."""
    model = build(name)
    inputs = batch(name, model, [Row([3, sizes(name)[0], 2, sizes(name)[0], 12], 5)])
    ids = inputs["input_ids"][0]
    after = (ids == model.config.image_token_id).nonzero()[0]
    tag = int(ids[-9])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(120)})))
    words.add_tokens([AddedToken(str(tag), special=True)])
    named = {START, END} & set(marked([model.config, model.config.get_text_config()]).tolist())
    assert named == ({START, END} if name != "idefics3" else set())
    for told in (None, words, SimpleNamespace(tokenizer=words)):
        seen: list[torch.Tensor] = []
        with torch.no_grad(), attach(model, Plan((Cut("input", Reader(seen), 0.5),)), tokenizer=told):
            model(**inputs)
        asked = ids[int(after) : -5]
        away = {*named, model.config.image_token_id, *([tag] if told else [])}
        want = model.get_input_embeddings()(torch.tensor([i for i in asked.tolist() if i not in away]))
        # Some types scale what they look up.
        got = seen[0] * (want[0].norm() / seen[0][0].norm())
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ModelError, match="tokenizer is 'words'; give the model's tokenizer, or its processor"):
        attach(build("gemma3"), Plan((Cut("input", Reader([]), 0.5),)), tokenizer="words")
