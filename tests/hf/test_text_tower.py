"""A plan that names a text tower: similarities are those of the joint model, patch by patch."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from foveate import Cut, ModelError, Plan, SignalError, attach
from foveate.methods import METHODS
from foveate.methods.cdpruner import Determinantal
from zoo import CLIP, IMAGE, SIZES, Row, batch, shared

WORDS = [f"w{i}" for i in range(128)]


def tokenizer(longest):
    raw = Tokenizer(
        models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2} | {w: i + 3 for i, w in enumerate(WORDS)}, "<pad>")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", model_max_length=longest)


class Own:
    """The language model's tokenizer: an id is a word."""

    def decode(self, ids, skip_special_tokens):
        return " ".join(WORDS[i] for i in ids)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Checkpoints of both kinds whose vision towers are as wide as the zoo's."""
    folders = {}
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=131)
    for name in ("clip", "siglip"):
        torch.manual_seed(0)
        vision = dict(CLIP, image_size=24, patch_size=4)
        if name == "clip":
            more = dict(max_position_embeddings=7, bos_token_id=0, eos_token_id=1, pad_token_id=2)
            model = CLIPModel(CLIPConfig(text_config=text | more, vision_config=vision, projection_dim=12))
        else:
            vision = {k: v for k, v in vision.items() if k != "projection_dim"}
            more = dict(max_position_embeddings=7, projection_size=vision["hidden_size"], pad_token_id=2)
            model = SiglipModel(SiglipConfig(text_config=text | more, vision_config=vision))
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tokenizer(7).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


class Spy:
    """Shows what it was given."""

    adaptive = False

    def __init__(self, text_tower):
        self.reads, self.text_tower, self.views = frozenset({"relevance_BN", "encoder_BNC"}), text_tower, []

    def __call__(self, view, k):
        from foveate import Selection

        self.views.append(view)
        return Selection.top(view.relevance_BN, k)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("at", ["input", 2])
def test_it_is_the_joint_models_similarity(towers, kind, at):
    model, b = shared("llava"), batch("llava", [Row([3, ("image", SIZES["llava"][0]), 18], 1)])
    spy = Spy(towers[kind])
    with torch.no_grad(), attach(model, Plan((Cut(at, spy, 0.5),)), tokenizer=Own()) as attached:
        model(**b.inputs)
    (view,) = spy.views
    joint = attached.towers[towers[kind]].joint
    with torch.no_grad():
        states = joint.vision_model.post_layernorm(view.encoder_BNC[0])
        patches = joint.visual_projection(states) if kind == "clip" else joint.vision_model.head(states[:, None])
        # After the image, without the closing tokens and special ids.
        ids = b.inputs["input_ids"][0].tolist()
        behind = len(ids) - ids[::-1].index(IMAGE)
        asks = [i for i in ids[behind:-5] if i > 2]
        chunks = [asks[i : i + 5] for i in range(0, len(asks), 5)]
        pad = 7 if kind == "siglip" else max(len(c) for c in chunks) + 2
        rows = [[0, *(i + 3 for i in c), 1] for c in chunks]
        tokens = torch.tensor([r + [2] * (pad - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (pad - len(r)) for r in rows])
        out = joint.get_text_features(input_ids=tokens, attention_mask=mask)
        texts = getattr(out, "pooler_output", out)
    want = (normalize(patches, dim=-1) @ normalize(texts, dim=-1).mT).mean(-1)
    torch.testing.assert_close(view.relevance_BN[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["cdpruner", "trim", "anchorprune", "eadp", "sfpruner"])
def test_methods_take_it(towers, method):
    model, b = (
        shared("llava"),
        batch("llava", [Row([3, ("image", SIZES["llava"][0]), 12], 1), Row([2, ("image", (24, 24)), 9], 2)]),
    )
    plan = METHODS[method](keep=9, text_tower=towers["clip"])
    assert Plan.from_json(plan.to_json()) == plan
    with torch.no_grad(), attach(model, plan, tokenizer=Own()) as attached:
        out = model(**b.inputs)
        kept = [i.cuts[0].kept for i in attached.report.images]
    assert [len(k) for k in kept] == [9, 9] and out.logits.isfinite().all()


def test_what_cannot_be_is_refused(towers, tmp_path):
    model = shared("llava")
    plan = Plan((Cut("input", Determinantal(text_tower=towers["clip"]), 5),))
    with pytest.raises(ModelError, match="tokenizer"):
        attach(model, plan)
    with pytest.raises(ModelError, match="cannot load"):
        attach(model, METHODS["cdpruner"](5, text_tower=str(tmp_path / "none")), tokenizer=Own())
    with pytest.raises(SignalError, match="names none"):
        attach(model, Plan((Cut("input", Spy(None), 5),)), tokenizer=Own())
    with pytest.raises(SignalError, match="encoder does not know"):
        attach(model, Plan((Cut("encoder", Spy(towers["clip"]), 5),)), tokenizer=Own())
    with attach(model, plan, tokenizer=Own()) as attached, pytest.raises(ModelError, match="25"):
        attached.towers[towers["clip"]].similarity(torch.zeros(3, 25), torch.tensor([5]))
