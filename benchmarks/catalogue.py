"""Every method on the embedded model at three keeps, paired over the same questions, with budget and time.

    python benchmarks/catalogue.py [--questions 1000]   # asks and times; goes on where it was stopped
    python benchmarks/catalogue_tables.py               # what came out, as Markdown, and the front as a picture

Held-out test scenes, four questions each. A question counts as right if greedy decoding would give the whole answer and
its end: the true answer is forced behind the prompt, and each of its tokens has to be the likeliest. A scene is encoded
once for all. Plans that cut once before the LLM and read no text choose once a scene, and its questions share the image
(`foveate.tiny.branches`); the others go through `attach`, and start at their first cut, where the unpruned pass left
the layers before it. The decoder is in bfloat16, as its weights are stored and twice as fast; the tower and the
projector are in float32. Scenes go in chunks, and every way is asked a chunk before any is asked the next.

Time is this process's CPU time of the LLM's prefill, and of choosing, over the prefill of all tokens: batches of two
prompts, encoded before, a few rounds through all ways, medians. The decoder is 256 wide, so choosing weighs far more
than it would beside a real one.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from catalogue_ways import ALL, KEEPS, SMALLER, plain, variants
from foveate import FoveateError, Plan, attach, files
from foveate.bench.downsample import fewer_patches, interpolated
from foveate.choosing import Asked, choose
from foveate.cut import Cut
from foveate.engines.hf import load
from foveate.engines.prompting import Prompt
from foveate.engines.stopwatch import Stopwatch
from foveate.fields import TOWER
from foveate.hf.encoder_cut import asked as before_projector
from foveate.hf.encodings import Features
from foveate.methods.uniform import Uniform, uniform
from foveate.search.cases import Batch, Forced, batches, force, some
from foveate.search.resume import Arrival, can_begin, passing
from foveate.search.said import Speaker
from foveate.tiny import world
from foveate.tiny.examples import examples
from instrument import answers, pack

PER_SCENE, BATCH, CHUNK, DEEP, ROUNDS = 4, 20, 100, 4, 3
DTYPE = torch.bfloat16
_BLIND = frozenset(TOWER) | {"hidden_BND", "grid"}


class Seeing(Uniform):
    """Keeps all, and has everything read that the tower can tell."""

    reads = _BLIND | {"text_BTD"}


class Chunk:
    """Some scenes, encoded, and their questions with the answers to force."""

    def __init__(self, engine: Any, scenes: range) -> None:
        self.engine, self.model = engine, engine.model
        self.asked = [list(world.scene("test", s, PER_SCENE).questions) for s in scenes]
        every = examples(scenes, "test", PER_SCENE)
        owner = [s for s, asked in enumerate(self.asked) for _ in asked]
        firsts = [owner.index(s) for s in range(len(self.asked))]
        (pictures,) = batches(engine, [every[i] for i in firsts], len(firsts))
        pictures.features = self._encoded(pictures.inputs["pixel_values"])
        place = {number: row for row, number in enumerate(pictures.numbers)}
        whole = some(pictures, [place[s] for s in range(len(firsts))])
        assert whole is not None
        output, encoding = whole.features["image"]
        self.image_SND, self.images = torch.stack(list(output.pooler_output)), encoding.images
        speaker = Speaker(engine, 32)
        self.pad = engine.processor.tokenizer.pad_token_id or 0
        self.batches = batches(engine, every, BATCH)
        self.forced = [force(b, [speaker.tokens(e) for e in b.examples], self.pad) for b in self.batches]
        for batch in self.batches:
            part = some(whole, [owner[n] for n in batch.numbers])
            assert part is not None
            batch.features = part.features
        self.questions = len(every)
        self._arrivals: list[dict[int, Tensor]] = []

    def _encoded(self, pixels: Tensor) -> Features:
        plan = Plan((Cut("input", Seeing(), 1.0),))
        features: Features = {}
        with attach(self.model, plan) as attached, torch.inference_mode():
            attached.features = features
            attached.base.get_image_features(pixel_values=pixels)
        return features

    def ask(self, plan: Plan) -> tuple[list[bool], list[float]]:
        """Right or wrong, and mean share of the tokens per layer, of each question."""
        cut = plan.cuts[0]
        in_place = plan.positions in (None, "original")
        alone = len(plan.cuts) == 1 and cut.at in ("encoder", "input") and not plan.sized and not plan.between
        if alone and plan.reads <= _BLIND and in_place:
            return self._by_scene(cut)
        return self._by_question(plan)

    @torch.inference_mode()
    def _by_scene(self, cut: Cut) -> tuple[list[bool], list[float]]:
        tokens = self.image_SND.shape[1]
        records = [before_projector(e) for e in self.images]
        if cut.at == "input":
            whole = self.image_SND
            records = [Asked(tokens, tokens, {**r.fields, "hidden_BND": lambda s=s: whole[s]}, r.grid)
                       for s, r in enumerate(records)]  # fmt: skip
        image_SND = self.image_SND.clone()
        keep_SN = torch.ones(image_SND.shape[:2], dtype=torch.bool)
        for s, kept, mix in choose(cut, records):
            keep_SN[s] = False
            keep_SN[s, kept] = True
            if mix is not None:
                mixed = mix.to(image_SND.dtype) @ records[s].fields["hidden_BND"]()
                image_SND[s, kept] = self.model.model.multi_modal_projector(mixed) if cut.at == "encoder" else mixed
        right = answers(self.model, self.asked, image_SND.to(DTYPE), keep_SN)
        shares = [k / tokens for k, asked in zip(keep_SN.sum(1).tolist(), self.asked, strict=True) for _ in asked]
        return right, shares

    def _by_question(self, plan: Plan) -> tuple[list[bool], list[float]]:
        right, shares = [False] * self.questions, [0.0] * self.questions
        at = plan.cuts[0].at
        for number, (batch, forced) in enumerate(zip(self.batches, self.forced, strict=True)):
            start = None
            if isinstance(at, int) and can_begin(plan, at) and at < DEEP:
                states = self.arrivals[number]
                start = Arrival(at, (), plan.positions, {i: states[i] for i in {at - 1, at} if i})
            hits, share = forward(self.model, plan, batch, forced, start)
            for place, hit, part in zip(batch.numbers, hits, share, strict=True):
                right[place], shares[place] = hit, part
        return right, shares

    @property
    def arrivals(self) -> list[dict[int, Tensor]]:
        """What all tokens are like on arrival at the first layers, batch by batch; worked out once."""
        if not self._arrivals:
            layers = self.model.model.language_model.layers
            for batch, forced in zip(self.batches, self.forced, strict=True):
                with first_layers(layers, DEEP) as states:
                    forward(self.model, uniform(1.0), batch, forced)
                self._arrivals.append(states)
        return self._arrivals

    def smaller(self, budget: str) -> tuple[list[bool], list[float]]:
        """The pictures scaled down to as many tokens."""
        cut = Cut("input", Uniform(), KEEPS[budget])
        right, shares = [False] * self.questions, 0.0
        for batch in self.batches:
            speaker = Speaker(self.engine, 32)
            less = Batch(batch.numbers, batch.examples, *_less(self.engine, batch, cut))
            forced = force(
                less, [speaker.tokens(e) for e in less.examples], self.engine.processor.tokenizer.pad_token_id
            )
            with interpolated(self.engine), torch.inference_mode():
                out = self.model(**forced.inputs, use_cache=False, logits_to_keep=forced.want_BT.shape[1] + 1)
            for place, hit in zip(batch.numbers, hits_of(out, forced), strict=True):
                right[place] = hit
            visual = (less.inputs["input_ids"] == self.model.config.image_token_id).sum(1)
            shares = float(visual[0]) / self.image_SND.shape[1]
        return right, [shares] * self.questions


def _less(engine: Any, batch: Batch, cut: Cut) -> tuple[dict[str, Any], int]:
    small = fewer_patches(engine, Prompt(batch.inputs, batch.tail), cut)
    return small.inputs, small.tail


@contextmanager
def first_layers(layers: nn.ModuleList, deep: int) -> Iterator[dict[int, Tensor]]:
    """Notes what arrives at the first layers, and passes over those from `deep` on."""
    states: dict[int, Tensor] = {}
    hook = lambda i: lambda _m, args, kwargs: states.update({i: args[0] if args else kwargs["hidden_states"]})  # noqa: E731
    handles = [x.register_forward_pre_hook(hook(i), with_kwargs=True) for i, x in enumerate(layers[:deep])]
    for layer in layers[deep:]:
        layer.forward = lambda hidden_states, *_, **__: hidden_states
    try:
        yield states
    finally:
        for layer in layers[deep:]:
            del layer.forward
        for handle in handles:
            handle.remove()


def hits_of(out: Any, forced: Forced) -> list[bool]:
    """Whether every token of each answer is the likeliest."""
    length = forced.want_BT.shape[1]
    said_BT = out.logits[:, -length - 1 : -1].argmax(-1)
    return ((said_BT == forced.want_BT) | (forced.want_BT < 0)).all(1).tolist()


@torch.inference_mode()
def forward(
    model: Any, plan: Plan, batch: Batch, forced: Forced, start: Arrival | None = None
) -> tuple[list[bool], list[float]]:
    """Right or wrong, and mean share of tokens per layer, of one batch."""
    layers = model.model.language_model.layers
    with attach(model, plan, tail=batch.tail) as attached, passing(layers, start, None):
        if attached.encoder_cut is None:
            attached.features = batch.features
        attached.answers_B = forced.lengths_B
        out = model(**forced.inputs, use_cache=False, logits_to_keep=forced.want_BT.shape[1] + 1)
        report = attached.report
    share = [fmean(i.per_layer) / i.tokens for i in report.images] if report else [1.0] * len(batch.numbers)
    return hits_of(out, forced), share


@torch.inference_mode()
def timed(engine: Any, plan: Plan | None, batch: Batch) -> tuple[float, float]:
    """CPU seconds of prefill, and of choosing; None is the batch as it is."""
    model = engine.model
    # A smaller picture has fewer placeholders than an attachment would expect: nothing is attached.
    attached = nullcontext() if plan is None else attach(model, plan, tail=batch.tail)
    with patch("time.perf_counter", time.process_time), interpolated(engine), attached as a, Stopwatch(model) as clock:
        if a is not None and a.encoder_cut is None:
            a.features = batch.features
        model(**batch.inputs, use_cache=True, logits_to_keep=1)
        clock.stop()
        times = clock.times(a.report if a is not None else None)
    return times.prefill, times.select


def time_all(engine: Any, plans: dict[str, Plan], chunk: Chunk) -> dict[str, dict[str, float]]:
    """Prefill and choosing of each plan, as shares of the prefill of all tokens."""
    batch = some(chunk.batches[0], [0, 1])
    assert batch is not None
    ways: dict[str, tuple[Plan | None, Batch]] = {name: (plan, batch) for name, plan in plans.items()}
    for budget, keep in KEEPS.items():
        less = Batch(batch.numbers, batch.examples, *_less(engine, batch, Cut("input", Uniform(), keep)))
        ways[f"{SMALLER}@{budget}"] = None, less
    whole: list[float] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for number, (name, (plan, prompts)) in enumerate(ways.items()):
            if number % 12 == 0:
                whole.append(timed(engine, uniform(1.0), batch)[0])
            seconds = timed(engine, plan, prompts)
            if round_:  # the first one compiles
                found[name].append(seconds)
    base = median(whole)
    return {name: {"prefill": median(p for p, _ in s) / base, "choosing": median(c for _, c in s) / base}
            for name, s in found.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000, help="a multiple of 100; 0 only times")
    parser.add_argument("--only", nargs="*", help="names of ways")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "catalogue.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = load("tiny")
    # The parameters alone: tables of rotary positions are buffers, and have to stay exact.
    for weight in (*engine.model.model.language_model.parameters(), *engine.model.lm_head.parameters()):
        weight.data = weight.data.to(DTYPE)
    depth = engine.facts.depth
    data: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"cells": {}, "time": {}}
    cells, plans = data["cells"], dict[str, Plan]()
    first, more = plain(), variants(engine.model)
    for name, make in (first | more).items():
        for budget in KEEPS if not args.only or name in args.only else ():
            try:
                plans[f"{name}@{budget}"] = make(budget).at_depth(depth)
            except FoveateError as e:
                cells[f"{name}@{budget}"] = {"refused": str(e)}
    of = lambda names: [c for b in KEEPS for n in names if (c := f"{n}@{b}") in plans]  # noqa: E731
    everything = [f"{ALL}@", *(f"{SMALLER}@{b}" for b in KEEPS), *of(first)]
    plans[f"{ALL}@"] = uniform(1.0)
    chunk: Chunk | None = None
    for wanted in (everything, of(more)):
        for number in range(args.questions // CHUNK):
            done = {c: len(cells.setdefault(c, {"right": [], "budget": []}).get("right", "")) for c in wanted}
            todo = [c for c in wanted if "refused" not in cells[c] and done[c] == number]
            if todo:
                chunk = Chunk(engine, range(number * CHUNK // PER_SCENE, (number + 1) * CHUNK // PER_SCENE))
            for cell in todo:
                name, _, budget = cell.rpartition("@")
                try:
                    right, shares = chunk.smaller(budget) if name == SMALLER else chunk.ask(plans[cell])
                except FoveateError as e:
                    cells[cell] = {"refused": str(e)}
                else:
                    cells[cell]["right"].append(pack(right))
                    cells[cell]["budget"].append(fmean(shares))
                files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())
            if todo:
                print(f"{(number + 1) * CHUNK} questions, {time.process_time():.0f} CPU seconds", flush=True)
    chunk = chunk or Chunk(engine, range(CHUNK // PER_SCENE))
    data["time"] |= time_all(engine, {c: p for c, p in plans.items() if "refused" not in cells.get(c, {})}, chunk)
    files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
