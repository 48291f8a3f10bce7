"""What a model says to a batch under a plan, as tokens and as words."""

import torch

from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.prompting import closing, ends
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.plan import Plan
from foveate.search.cases import Batch


class Speaker:
    """Generates greedily, and knows where answers end."""

    def __init__(self, engine: Engine, longest: int) -> None:
        """`longest` answer, in tokens."""
        self.model, self.processor, self.longest = engine.model, engine.processor, longest
        self.ends, self.end = ends(engine.model), closing(engine)

    def generate(self, batch: Batch, plan: Plan) -> list[list[int]]:
        """The greedy answers' tokens, the end token included."""
        with attach(self.model, plan, tail=batch.tail) as attached, torch.inference_mode():
            attached.features = batch.features
            out = self.model.generate(
                **batch.inputs, max_new_tokens=self.longest, do_sample=False, num_beams=1, temperature=None,
                top_p=None, top_k=None,
            )  # fmt: skip
        rows = out[:, batch.inputs["input_ids"].shape[1] :].tolist()
        return [ids[: next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))] for ids in rows]

    def text(self, ids: list[int]) -> str:
        """An answer in words."""
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def tokens(self, example: Example) -> list[int]:
        """The tokens of the data's own answer, the end token included.

        Raises:
            FoveateError: it has none.
        """
        answer = next((a for a in example.answers if a.strip()), "")
        ids = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not ids:
            raise FoveateError(f"the answer of example {example.id} has no tokens, so none can be likely")
        return [*ids, *self.end]
