"""Which words of a question count: selectors are shown those tokens and no others, at the encoder and behind it."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from foveate import Cut, FoveateError, ModelError, Plan, attach, words
from foveate.methods import METHODS
from foveate.methods.apportioned import apportioned
from foveate.methods.switches import merged
from foveate.methods.worded import worded
from foveate.selection import Selection
from foveate.servable import servable
from zoo import Row, batch, shared

SIZE = {"llava": (24, 24), "qwen2_vl": (16, 32)}


class Own:
    """Each id is a word or a piece of one: even ones begin a word, odd ones go on with it."""

    all_special_ids = ()

    def decode(self, ids, **_):
        return "".join(f" w{i}" if i % 2 == 0 else f"x{i}" for i in ids).strip()


class Spy:
    reads = frozenset({"hidden_BND", "text_BTD"})
    adaptive = False

    def __init__(self):
        self.seen = []

    def __call__(self, view, k):
        self.seen += list(view.text_BTD)
        return Selection.top(view.hidden_BND.sum(-1), k)


def long(text):
    """Words of which some piece is a multiple of three."""
    out, at = [], 0
    for word in text.split(" "):
        numbers = [int(x) for x in word.replace("x", " ").replace("w", " ").split()]
        if any(n % 3 == 0 for n in numbers):
            out.append((at, at + len(word)))
        at += len(word) + 1
    return out


def wanted(ids):
    """The ids of those words, by hand."""
    groups = []
    for i in ids:
        groups = [*groups, [i]] if i % 2 == 0 or not groups else [*groups[:-1], [*groups[-1], i]]
    return [i for group in groups if any(n % 3 == 0 for n in group) for i in group]


@pytest.mark.parametrize("name", SIZE)
@pytest.mark.parametrize("at", ["encoder", "input", 2])
def test_selectors_see_the_words_that_count(name, at):
    model = shared(name)
    rows = [Row([3, ("image", SIZE[name]), 19], 2), Row([2, ("image", SIZE[name]), 25], 3)]
    b, table = batch(name, rows), model.get_input_embeddings().weight
    all_of, some = Spy(), Spy()
    with torch.no_grad(), attach(model, Plan((Cut(at, all_of, 4),)), tokenizer=Own()):
        model(**b.inputs)
    with torch.no_grad(), attach(model, worded(Plan((Cut(at, some, 4),)), long), tokenizer=Own()):
        model(**b.inputs)
    assert len(all_of.seen) == len(some.seen) == 2
    for every, few in zip(all_of.seen, some.seen, strict=True):
        ids = torch.cdist(every, table).argmin(1).tolist()
        keeps = wanted(ids)
        assert 0 < len(keeps) < len(ids)
        assert_close(few, table[keeps])


def test_where_no_word_counts_all_do():
    model, b = shared("llava"), batch("llava", [Row([3, ("image", (24, 24)), 19], 2)])
    plan = METHODS["resprune"](keep=9)
    with torch.no_grad(), attach(model, plan):
        want = model(**b.inputs).logits
    with torch.no_grad(), attach(model, worded(plan, lambda _: []), tokenizer=Own()):
        assert torch.equal(model(**b.inputs).logits, want)


@pytest.mark.parametrize("method", ["resprune", "crisp", "mmtok", "eadp", "cdpruner", "anchorprune"])
def test_any_method_that_reads_words(method):
    model, b = (
        shared("llava"),
        batch("llava", [Row([3, ("image", (24, 24)), 30], 2), Row([2, ("image", (24, 24)), 35], 3)]),
    )
    plan = worded(METHODS[method](keep=9), "content")
    assert Plan.from_json(plan.to_json()) == plan
    with torch.no_grad(), attach(model, merged(plan), tokenizer=Own()) as attached:
        assert bool(model(**b.inputs).logits.isfinite().all())
        kept = [i.cuts[-1].kept for i in attached.report.images]
    with torch.no_grad(), attach(model, apportioned(plan, by="words"), tokenizer=Own()) as attached:
        model(**b.inputs)
        assert kept == [i.cuts[-1].kept for i in attached.report.images], "one image a prompt"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What color is the dog's collar in the picture?", ["color", "dog's", "collar", "picture"]),
        ("How many are there?", []),
        ("", []),
    ],
)
def test_content_leaves_out_function_words(text, names):
    assert [text[a:b] for a, b in words.content(text)] == names


def test_nouns_are_what_the_parser_calls_so(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return lambda text: [
            SimpleNamespace(idx=text.index(w), text=w, pos_="NOUN" if w.islower() else "VERB") for w in text.split()
        ]

    spacy = ModuleType("spacy")
    spacy.load = load
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    words._parser.cache_clear()
    try:
        assert words.rule("nouns")("a DOG runs") == [(0, 1), (6, 10)]
        assert asked == ["en_core_web_sm"]
    finally:
        words._parser.cache_clear()


def test_what_cannot_be_is_refused(monkeypatch):
    model, plan = shared("llava"), METHODS["resprune"](keep=9)
    monkeypatch.setitem(sys.modules, "spacy", None)
    words._parser.cache_clear()
    with pytest.raises(FoveateError, match=r"needs spaCy: pip install.*words=\"content\""):
        attach(model, worded(plan), tokenizer=Own())
    with pytest.raises(FoveateError, match="must be one of content, nouns"):
        worded(plan, "verbs")
    with pytest.raises(FoveateError, match="reads no words"):
        worded(METHODS["divprune"](keep=9))
    with pytest.raises(ModelError, match="pass its tokenizer"):
        attach(model, worded(plan, "content"))
    with pytest.raises(FoveateError, match="cannot go into a plan file"):
        worded(plan, long).to_json()
    assert "tokenizer" in servable(worded(plan, "content"))
    b = batch("llava", [Row([3, ("image", (24, 24)), 19], 2)])
    wrong = worded(plan, lambda text: [(0, len(text) + 1)])
    with torch.no_grad(), attach(model, wrong, tokenizer=Own()), pytest.raises(FoveateError, match="must answer"):
        model(**b.inputs)


def test_a_switch_passes_on_what_its_selector_asks_for():
    @dataclass(frozen=True)
    class Reads:
        reads = frozenset({"hidden_BND"})
        adaptive = False
        text_tower: str = "somewhere"

    plan = merged(Plan((Cut("input", Reads(), 4),)))
    assert plan.cuts[0].select.text_tower == "somewhere" and not plan.sized
    assert not hasattr(plan.cuts[0].select, "text_words")
