"""Attach a plan to a stock Hugging Face model: where it is hooked. (`encode.py` hooks its tower while that runs.)

Invariants, all owned here and in `step.py`:

1. Template, BOS and the last prompt tokens are never dropped; text goes only by a cut that says over="prompt".
2. Order is preserved. With positions="original" kept tokens keep their positions, and decoding goes on from the
   unpruned length.
3. Everything indexed by position is cut together.
4. New tensors are passed on; shared tensors are never resized in place.
5. Nothing outside this model object changes; detach restores it exactly; importing foveate patches nothing.
6. A plan that cannot apply fails loudly, before the first forward. It never silently does nothing.

What a forward pass knows lives in a thread-local `Run`; what a pruned prompt leaves behind lives in its cache.
"""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from foveate.cut import Cut
from foveate.errors import ModelError, PlanError
from foveate.geometry.base import Kind
from foveate.hf import text_tower
from foveate.hf.calls import special_ids
from foveate.hf.checks import MARK, check_model, has_windows
from foveate.hf.embedded import Embedded, Given, check_embedded
from foveate.hf.encodings import Encoding, Features
from foveate.hf.families import family
from foveate.hf.hooks import Hooks
from foveate.hf.plan_checks import check_plan, reads_projections
from foveate.hf.probe import probe as held_against
from foveate.hf.report import Report
from foveate.hf.run import Run
from foveate.hf.wrappers import unwrapped
from foveate.ops.doubts import Doubts
from foveate.plan import Plan


class Attachment:
    """A plan at work on a model. A context manager; `detach()` ends it."""

    def __init__(self, model: nn.Module, plan: Plan, tail: int | None = None, tokenizer: Any = None) -> None:
        """See `attach`."""
        if not isinstance(plan, Plan):
            raise PlanError(
                f"attach takes a Plan, not {plan!r}; make one with foveate.methods, e.g. divprune(keep=0.25)"
            )
        self.model = model = unwrapped(model)
        self.family = family(model)
        check_model(model, self.family)
        self.plan = plan = plan.at_depth(self.family.depth(model))
        self.base, self.lm = self.family.base(model), self.family.language_model(model)
        check_plan(plan, self.family, self.base, self.lm)
        tokenizer = text_tower.tokenizer_of(tokenizer)
        asked = {getattr(c.select, "text_tower", None) for c in plan.cuts if "relevance_BN" in c.select.reads}
        self.towers = {name: text_tower.load(name, model, tokenizer) for name in asked if name}
        said = {c.words for c in plan.cuts if c.words is not None}
        self.words = {words: text_tower.Counting(words, text_tower.reader(model, tokenizer)) for words in said}
        self.tail = getattr(model.config, "template_tail", self.family.tail) if tail is None else tail
        if isinstance(self.tail, bool) or not isinstance(self.tail, int) or self.tail < 1:
            raise PlanError(f"tail is {self.tail!r}; it counts the tokens that close the prompt, at least 1")
        self.features: Features | None = None
        """Encoder outputs by kind, for callers that ask about the same images again and again: what is in it is used
        instead of encoding anew, what is not is put into it. One dict for each batch; without an encoder cut only."""
        self.answers_B: Tensor | None = None
        """How many of each prompt's last tokens are an answer that the caller forces upon the model: choosing knows
        nothing of them, and they always stay. For forward passes without a cache."""
        self._report: Report | None = None
        self.doubts = Doubts()
        """Checks that prefills made on a device, and nobody has judged yet."""
        self.contiguous = (plan.positions or self.family.positions) == "contiguous"
        self.input_cuts = [c for c in plan.cuts if c.at == "input"]
        self.layer_cuts: dict[int, Cut] = {c.at: c for c in plan.cuts if isinstance(c.at, int)}
        encoder = [c for c in plan.cuts if c.at == "encoder"]
        self.encoder_cut = encoder[0] if encoder else None
        self.special = special_ids(model, tokenizer)
        self.plain = self.family.plain(self.lm)
        self.windows = has_windows(self.lm.config)
        # With something added to the logits, only the layer itself says what it attends to.
        self.projections = reads_projections(self.family, self.lm) and not plan.sized
        # What its forward calls its arguments; an instance's may be replaced by others' hooks.
        self.names = [[*inspect.signature(type(x).forward).parameters][1:] for x in self.lm.layers]
        self.local = threading.local()
        self.hooks = Hooks(self)

    # -- life

    def __enter__(self) -> "Attachment":
        self._check_there()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.detach()
        if kind is None:
            self.doubts.judge(wait=True)

    def __reduce__(self) -> Any:
        raise ModelError("an attached model cannot be copied or pickled whole; detach first (save_pretrained works)")

    def __repr__(self) -> str:
        cuts = ", ".join(f"{c.keep} at {c.at}" for c in self.plan.cuts)
        state = f"\n{self._report!r}" if self._report else ""
        return f"Attachment({type(self.model).__name__}, {cuts}){state}"

    @contextmanager
    def embedded(self, visual_BL: Tensor, grids: Sequence[Given] | None = None) -> Iterator[None]:
        """While this lasts, prompts may come as `inputs_embeds` that hold their images' features already.

            with attached.embedded(mask, grids=[(1, 24, 24)]):
                model.generate(inputs_embeds=embeds, attention_mask=...)

        Args:
            visual_BL: [batch, length] bool, true where an embedding is an image's.
            grids: see `Embedded`.

        Raises:
            ModelError: the mask, or a grid, does not fit; or the plan is attached no more.
            PlanError, SignalError: the plan needs the encoder to run.
        """
        self._check_there()
        check_embedded(self.plan)
        before, self.local.embedded = getattr(self.local, "embedded", None), Embedded(visual_BL, grids)
        try:
            yield
        finally:
            self.local.embedded = before

    def detach(self) -> None:
        """Give the model back as it was. A second call does nothing.

        A cache that was cut stays cut: finish a conversation before detaching, or start it anew.
        """
        self.hooks.remove()

    @property
    def there(self) -> bool:
        """Whether the plan is still attached."""
        return self.base.__dict__.get(MARK) is self

    def _check_there(self) -> None:
        if not self.there:
            raise ModelError("this plan was detached, and would drop nothing; attach it anew: attach(model, plan)")

    @property
    def report(self) -> Report | None:
        """What the last prefill did, on whichever thread; None before the first, and after one without images.

        Raises:
            SignalError: on a GPU, what was found wrong with that prefill's choices, if nobody has heard of it yet.
        """
        self.doubts.judge(wait=True)
        return self._report

    @report.setter
    def report(self, made: Report | None) -> None:
        self._report = made

    # -- the base model: tower and language model

    @property
    def run(self) -> Run | None:
        """This thread's call of the base model, while it lasts."""
        return getattr(self.local, "run", None)

    @property
    def pending(self) -> dict[Kind, Encoding]:
        """This thread's last encoding of each kind: accelerate copies outputs, and what was pinned to them is lost."""
        if not hasattr(self.local, "pending"):
            self.local.pending = {}
        return self.local.pending


def attach(
    model: nn.Module, plan: Plan, tail: int | None = None, probe: bool | None = None, tokenizer: Any = None
) -> Attachment:
    """Make a stock Hugging Face VLM drop visual tokens as the plan says, until detached.

    Works with `generate` (greedy, sampling, beams, several return sequences), plain `forward` with or without labels,
    any mix of prompts and images in a batch, and chats that go on from a cache. What goes in and out keeps its length.

    Args:
        model: a model of a supported type (`foveate list`), e.g. LlavaForConditionalGeneration: the one you call. (A
            loss computed by a head outside of it cannot leave out positions that are gone.)
        plan: what to drop where; from `foveate.methods.METHODS`, from a file, or your own.
        tail: how many tokens close the prompt after the question ("ASSISTANT:"); they are never dropped, and are no
            question. None is `template_tail` of the model's config, or the family's usual count.
        probe: whether to try on nine tokens that cutting does to this language model what never sending does (see
            `probe.py` for the cost). None tries types without a family of their own, once for each model object.
        tokenizer: the model's, or its processor. What it calls special is no part of the question: tags of tiles and
            of speakers, say, of which no config tells. And it reads the question for plans that name a `text_tower`,
            which without one is loaded from where the model came from.

    Returns:
        The attachment: a context manager with `.report` and `.detach()`.

    Raises:
        PlanError: the plan does not fit the model.
        ModelError: the model, or its attention implementation, is not supported, or the probe failed.
        SignalError: the plan reads a signal that the model cannot give.
    """
    if probe or (probe is None and isinstance(plan, Plan) and family(unwrapped(model)).by_runs):
        held_against(model, Attachment)
    return Attachment(model, plan, tail, tokenizer)
