"""What a plan costs and loses on a set of examples, many plans an hour.

Three things are done once and not for each plan: pictures are encoded, the full model answers, and the layers that a
plan shares with the one before it are run. An answer is scored by forcing it behind its prompt, in one forward pass;
only where a plan's answer differs from the full model's, and the metric looks at words, is it generated.
"""

from collections.abc import Callable, Sequence
from statistics import fmean, median

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.score import answer
from foveate.engines.stopwatch import Stopwatch
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.families import family
from foveate.hf.report import Report
from foveate.methods.uniform import Uniform
from foveate.metrics import METRICS
from foveate.ops.flops import LayerShape, visual_share
from foveate.plan import Plan
from foveate.search.cases import Batch, Forced, batches, force, some
from foveate.search.outcome import FLOOR, Outcome, check_metric, needs_answers
from foveate.search.resume import Arrival, beginning, can_begin, passing, prepared
from foveate.search.said import Speaker

WHOLE = Plan((Cut("input", Uniform(), 1.0),))
"""The full model, as a plan: so that it goes through the same code."""


class Evaluator:
    """See the module's docstring."""

    def __init__(
        self,
        engine: Engine,
        examples: Sequence[Example],
        metric: str,
        batch: int = 16,
        memory: float = 2.0,
        max_new_tokens: int = 32,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the examples and ask the full model.

        Args:
            engine: from `load`.
            examples: what is asked.
            metric: one of SEARCH_METRICS.
            batch: examples at a time.
            memory: GiB that kept states may take; 0 keeps none.
            max_new_tokens: the longest answer, in tokens.
            progress: called after every batch.

        Raises:
            FoveateError: an unknown metric, examples without the answers it needs, or a picture that cannot be read.
        """
        check_metric(metric)
        self.engine, self.metric, self.size = engine, metric, batch
        self.speaker, self.progress = Speaker(engine, max_new_tokens), progress
        self.examples = list(examples)
        if needs_answers(metric) and (bare := [e.id for e in self.examples if not e.answers]):
            raise FoveateError(f'example {bare[0]} has no answer, which {metric!r} compares with; use "agreement"')
        model = engine.model
        self.family = family(model)
        self.depth = self.family.depth(model)
        self.shape = LayerShape.of(model.config.get_text_config())
        self.room = memory * 2**30
        self.batches = batches(engine, self.examples, batch)
        self.texts: list[str] = [""] * len(self.examples)
        self.forced: list[Forced] = [self._full(b) for b in self.batches]
        self.full = self._ask_full()

    # -- the full model

    def _full(self, batch: Batch) -> Forced:
        """The answers that are forced: the data's own for likelihoods, else the full model's."""
        pad, kind = self.engine.processor.tokenizer.pad_token_id or 0, self.family.answer_type
        if self.metric == "likelihood":
            return force(batch, [self.speaker.tokens(e) for e in batch.examples], pad, kind)
        said = self.speaker.generate(batch, WHOLE)
        for number, ids in zip(batch.numbers, said, strict=True):
            self.texts[number] = self.speaker.text(ids)
        self.progress()
        return force(batch, said, pad, kind)

    def _ask_full(self) -> Outcome:
        if self.metric == "likelihood":
            return self.evaluate(WHOLE)
        scores = [1.0 if self.metric == "agreement" else self._score(i, t) for i, t in enumerate(self.texts)]
        return Outcome(tuple(scores), 1.0, 1.0)

    def _score(self, number: int, text: str) -> float:
        return METRICS[self.metric](text, self.examples[number].answers)

    # -- a plan

    def evaluate(self, plan: Plan, shared: int = 1) -> Outcome:
        """Scores and costs of a plan.

        Args:
            plan: what to drop.
            shared: plans asked about next will have the same cuts before this layer; how the full model arrives
                there is shared in any case.

        Raises:
            FoveateError: the plan does not apply.
        """
        plan = plan.at_depth(self.depth)
        shared = min(shared, self.depth - 1)
        scores: list[float] = [0.0] * len(self.examples)
        budgets: list[float] = []
        flops: list[float] = []
        for batch, forced in zip(self.batches, self.forced, strict=True):
            logits_BTV, report = self._forward(batch, forced, plan, shared)
            want = forced.want_BT
            asked = want >= 0
            if self.metric == "likelihood":
                p = logits_BTV.softmax(-1).gather(2, want.clamp(min=0)[..., None])[..., 0]
                total = ((1 - FLOOR) * p + FLOOR).log().where(asked, 0.0).sum(1)
                values = (total / forced.lengths_B).tolist()
            else:
                same = ((logits_BTV.argmax(-1) == want) | ~asked).all(1).tolist()
                values = [float(s) for s in same]
                if self.metric != "agreement":
                    values = [self.full.scores[n] for n in batch.numbers]
                    other = [row for row, agrees in enumerate(same) if not agrees]
                    for row, text in zip(other, self._others(batch, other, plan), strict=True):
                        values[row] = self._score(batch.numbers[row], text)
            for number, value in zip(batch.numbers, values, strict=True):
                scores[number] = value
            self._costs(batch, report, budgets, flops)
            self.progress()
        return Outcome(tuple(scores), fmean(budgets or [1.0]), fmean(flops or [1.0]))

    def _others(self, batch: Batch, rows: list[int], plan: Plan) -> list[str]:
        """What a plan answers to some rows of a batch."""
        if not rows:
            return []
        part = some(batch, rows)
        if part is not None:
            return [self.speaker.text(ids) for ids in self.speaker.generate(part, plan)]
        return [s.text for s in answer(self.engine, [batch.examples[r] for r in rows], plan, self.speaker.longest)]

    def prefill_ratio(self, plan: Plan, repeats: int = 5) -> float:
        """Time of the decoder's prefill under a plan over that of the full model, on the first batch, encoding apart.

        Choosing is included; nothing is shared or passed over. Runs go in turns, and the median ratio counts.
        """
        batch, model = self.batches[0], self.engine.model

        def run(way: Plan) -> float:
            with attach(model, way, tail=batch.tail) as attached, torch.inference_mode(), Stopwatch(model) as clock:
                attached.features = batch.features
                model(**batch.inputs, use_cache=True, logits_to_keep=1)
                clock.stop()
                times = clock.times(attached.report)
            return times.prefill + times.select

        run(plan), run(WHOLE)
        return median(run(plan) / run(WHOLE) for _ in range(repeats))

    def _forward(self, batch: Batch, forced: Forced, plan: Plan, shared: int) -> tuple[Tensor, Report | None]:
        """Logits that predict each answer token, [B, T, V], and what the plan did."""
        model = self.engine.model
        start = batch.arrival if batch.arrival and batch.arrival.fits(plan) else None
        end = self._end(plan, shared, start)
        ready = prepared(plan, start, end)
        length = forced.want_BT.shape[1]
        with attach(model, ready, tail=batch.tail) as attached, passing(self.family.layers(model), start, end):
            attached.features, attached.answers_B = batch.features, forced.lengths_B
            with torch.inference_mode():
                out = model(**forced.inputs, use_cache=False, logits_to_keep=length + 1)
            report = attached.report
        if end is not None:
            self._keep(batch, end)
        return out.logits[:, -length - 1 : -1].float(), report

    def _end(self, plan: Plan, shared: int, start: Arrival | None) -> Arrival | None:
        """What to put by in this pass; nothing where that is there already, or would fit no other plan."""
        settled = shared > 1 or not beginning(plan, shared)
        if not self.room or not settled or not can_begin(plan, shared):
            return None
        if start is not None and start.at >= shared:
            return None
        return Arrival(shared, beginning(plan, shared), plan.positions)

    def _keep(self, batch: Batch, end: Arrival) -> None:
        # Where the first layer is the one before, its states are the embeddings, which are there in any case.
        end.states.pop(0, None)
        held = sum(b.arrival.bytes for b in self.batches if b.arrival is not None and b is not batch)
        batch.arrival = end if held + end.bytes <= self.room else None

    def _costs(self, batch: Batch, report: Report | None, budgets: list[float], flops: list[float]) -> None:
        if report is None:
            return
        prompts = batch.mask_BL.sum(1).tolist()
        for row, length in enumerate(prompts):
            images = [i for i in report.images if i.row == row]
            if not images:
                continue
            tokens = sum(i.tokens for i in images)
            counts = [sum(layer) for layer in zip(*(i.per_layer for i in images), strict=True)]
            budgets.append(sum(counts) / self.depth / tokens)
            shape = self.shape
            flops.append(budgets[-1] if shape is None else visual_share(shape, counts, tokens, length - tokens))
