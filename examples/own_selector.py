"""Your own way of choosing, beside a published one: python examples/own_selector.py MODEL PICTURE QUESTION."""

import sys
from dataclasses import dataclass
from typing import ClassVar

from foveate import Cut, Plan, Selection, TokenView, images, methods
from foveate.engines import hf


@dataclass(frozen=True)
class Contrast:
    """Keep the tokens that are least like the mean of their picture."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND").float()
        return Selection.top((hidden_BND - hidden_BND.mean(1, keepdim=True)).norm(dim=-1), k)


model_name, picture, question = sys.argv[1:]
engine = hf.load(model_name)
plans = {"all": None, "mine": Plan((Cut("input", Contrast(), 0.25),)), "divprune": methods.divprune(keep=0.25)}
for name, plan in plans.items():
    answer = hf.ask(engine, [images.load(picture)], question, plan, max_new_tokens=16)
    print(f"{name}: {answer.text}  ({1000 * answer.times.first_token:.0f} ms to the first token)")
