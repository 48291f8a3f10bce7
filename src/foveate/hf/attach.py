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

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from foveate.cut import Cut
from foveate.errors import ModelError, PlanError
from foveate.geometry.base import Kind
from foveate.hf.cache import NAMES, check_cache, cuts_of, given, left, length, widen
from foveate.hf.calls import named, special_ids, stand_in_ids
from foveate.hf.checks import (
    MARK,
    check_counts,
    check_mask,
    check_model,
    check_plan,
    check_rows,
    check_shares,
    has_windows,
    reads_projections,
)
from foveate.hf.cutting import Cutting
from foveate.hf.encode import Encoding, Features, wrapped
from foveate.hf.families import family
from foveate.hf.follow import light, settle
from foveate.hf.guesses import guessed, watched
from foveate.hf.layers import Layers
from foveate.hf.probe import probe as held_against
from foveate.hf.prompt import (
    Prompt,
    anchored,
    by_runs,
    last_real,
    locate,
    placeholders,
    runs,
    without_last,
)
from foveate.hf.reading import noted
from foveate.hf.report import Report, account
from foveate.hf.restore import restore
from foveate.hf.run import Run
from foveate.hf.step import Step
from foveate.hf.taps import key_norms
from foveate.hf.wrappers import compiled, renew_compiled, unseen, unwrapped
from foveate.plan import Plan
from foveate.question import question
from foveate.selection import Attention

PIXELS = ("pixel_values", "image_patches")
"""How arguments that bring pictures begin."""


class Attachment:
    """A plan at work on a model. A context manager; `detach()` ends it."""

    def __init__(self, model: nn.Module, plan: Plan, tail: int | None = None) -> None:
        """See `attach`."""
        if not isinstance(plan, Plan):
            raise PlanError(
                f"attach takes a Plan, not {plan!r}; make one with foveate.methods, e.g. divprune(keep=0.25)"
            )
        self.model = model = unwrapped(model)
        self.family = family(model)
        check_model(model, self.family)
        self.plan = plan = plan.at_depth(self.family.depth(model))
        check_plan(plan, model, self.family)
        self.tail = getattr(model.config, "template_tail", self.family.tail) if tail is None else tail
        if isinstance(self.tail, bool) or not isinstance(self.tail, int) or self.tail < 1:
            raise PlanError(f"tail is {self.tail!r}; it counts the tokens that close the prompt, at least 1")
        self.features: Features | None = None
        """Encoder outputs by kind, for callers that ask about the same images again and again: what is in it is used
        instead of encoding anew, what is not is put into it. One dict for each batch; without an encoder cut only."""
        self.answers_B: Tensor | None = None
        """How many of each prompt's last tokens are an answer that the caller forces upon the model: choosing knows
        nothing of them, and they always stay. For forward passes without a cache."""
        self.report: Report | None = None
        """What the last prefill did, on whichever thread; None before the first, and after one without images."""
        self.contiguous = (plan.positions or self.family.positions) == "contiguous"
        self.base = self.family.base(model)
        self.lm = self.family.language_model(model)
        self.input_cuts = [c for c in plan.cuts if c.at == "input"]
        self.layer_cuts: dict[int, Cut] = {c.at: c for c in plan.cuts if isinstance(c.at, int)}
        encoder = [c for c in plan.cuts if c.at == "encoder"]
        self.encoder_cut = encoder[0] if encoder else None
        self.special = special_ids(model)
        self.plain = self.family.plain(self.lm)
        self.windows = has_windows(self.lm.config)
        self.projections = reads_projections(self.family, self.lm)
        # What its forward calls its arguments; an instance's may be replaced by others' hooks.
        self.names = [[*inspect.signature(type(x).forward).parameters][1:] for x in self.lm.layers]
        self.local = threading.local()
        self._handles: list[Any] = []
        self._ears: list[Any] = []
        self._listening: weakref.WeakSet[Run] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._wrapped: list[tuple[Any, str]] = []
        self._hook()

    # -- life

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __reduce__(self) -> Any:
        raise ModelError("an attached model cannot be copied or pickled whole; detach first (save_pretrained works)")

    def __repr__(self) -> str:
        cuts = ", ".join(f"{c.keep} at {c.at}" for c in self.plan.cuts)
        state = f"\n{self.report!r}" if self.report else ""
        return f"Attachment({type(self.model).__name__}, {cuts}){state}"

    def detach(self) -> None:
        """Give the model back as it was. A second call does nothing.

        A cache that was cut stays cut: finish a conversation before detaching, or start it anew.
        """
        for handle in (*self._handles, *self._ears):
            handle.remove()
        for module, name in self._wrapped:
            delattr(module, name)
        self._handles, self._ears, self._wrapped = [], [], []
        if self.base.__dict__.get(MARK) is self:
            delattr(self.base, MARK)
            renew_compiled()

    def _hook(self) -> None:
        renew_compiled()
        setattr(self.base, MARK, self)
        add = self._handles.append
        if self.model is not self.base:
            add(self.model.register_forward_pre_hook(unseen(self._called), with_kwargs=True))
            add(self.model.register_forward_hook(unseen(self._loss), with_kwargs=True))
        add(self.base.register_forward_pre_hook(unseen(self._begin), with_kwargs=True))
        add(self.lm.register_forward_pre_hook(unseen(self._lm_in), with_kwargs=True))
        add(self.lm.register_forward_hook(unseen(self._lm_out)))
        # After the language model's, which may be the same module.
        add(self.base.register_forward_hook(unseen(self._end), always_call=True))
        for name in ("get_image_features", "get_video_features"):
            if hasattr(self.base, name) and not self.family.by_runs:
                # On the instance: the class, and every other model, keeps its own.
                kind: Any = name.split("_")[1]
                setattr(self.base, name, unseen(wrapped(self, kind, getattr(self.base, name)), inside=True))
                self._wrapped.append((self.base, name))
        for module, name, make in self.family.wraps(self.lm):
            setattr(module, name, make(self, getattr(module, name)))
            self._wrapped.append((module, name))
        if hasattr(self.model, name := "_get_candidate_generator"):
            setattr(self.model, name, watched(self.local, getattr(self.model, name)))
            self._wrapped.append((self.model, name))
        reads = self.encoder_cut.select.reads if self.encoder_cut is not None else frozenset()
        if "text_BTD" in reads and hasattr(self.model, name := "generate"):
            setattr(self.model, name, noted(self.local, getattr(self.model, name)))
            self._wrapped.append((self.model, name))
        if hasattr(self.lm, "_deepstack_process"):
            self.lm._deepstack_process = unseen(self._deepstack(self.lm._deepstack_process))
            self._wrapped.append((self.lm, "_deepstack_process"))

    def _listen(self, run: Run | None) -> None:
        """Put hooks on the layers for a run, or (None) take them off where no pass has a use for them.

        Code that was compiled with them looks for no others, so there they stay.
        """
        with self._lock:
            if run is None:
                if self._ears and self.plain and not self._listening and not compiled():
                    while self._ears:
                        self._ears.pop().remove()
                return
            self._listening.add(run)
            if self._ears:
                return
            renew_compiled()
            for i, layer in enumerate(self.lm.layers):
                hook = unseen(functools.partial(self._layer_in, i))
                self._ears.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
                if not self.plain:
                    # First of all, so that whoever records states records whole ones.
                    self._ears.append(layer.register_forward_hook(unseen(self._layer_out), prepend=True))

    # -- the whole model

    def _called(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        """Note whether the last place alone is asked for, as `generate` asks."""
        keep = kwargs.get("logits_to_keep")
        self.local.last_only = isinstance(keep, int) and keep == 1 + getattr(self.local, "guesses", 0)

    def _loss(self, model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Take positions that no longer exist out of the loss."""
        dropped, self.local.dropped = getattr(self.local, "dropped", None), None
        labels = kwargs.get("labels")
        if labels is None or dropped is None:
            return None
        # The label at t is predicted from t - 1; where that was dropped there is no prediction to score.
        blind = torch.nn.functional.pad(dropped[:, :-1], (1, 0), value=False).to(labels.device)
        if not bool((blind & (labels != -100)).any()):
            return None
        if not isinstance(output, dict):
            raise ModelError(
                "labels on dropped positions need a ModelOutput to correct the loss in; pass return_dict=True"
            )
        extra = {k: v for k, v in kwargs.items() if k == "num_items_in_batch"}
        output["loss"] = model.loss_function(
            logits=output["logits"],
            labels=labels.masked_fill(blind, -100),
            vocab_size=model.config.get_text_config().vocab_size,
            **extra,
        )
        return output

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

    def _begin(self, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse what cannot be cut, before anything heavy runs, and note what was asked."""
        run = self.local.run = Run()
        kwargs = named(base, args, kwargs)
        check_cache(given(kwargs))
        check_mask(kwargs.get("attention_mask"))
        ids = kwargs.get("input_ids")
        embeds = kwargs.get("inputs_embeds")
        encoded = kwargs.get("mm_encoder_outputs") or {}
        raw = any(k.startswith(PIXELS) and v is not None for k, v in kwargs.items())
        if ids is None and embeds is not None:
            if not raw and not encoded and length(given(kwargs)) == 0:
                raise ModelError(
                    "inputs_embeds alone do not say which tokens are visual; "
                    "pass input_ids and pixel_values, or detach first"
                )
            ids = stand_in_ids(self.family, base, embeds, self.special) if raw or encoded else None
        run.ids, run.mask = ids, kwargs.get("attention_mask")
        run.pictures = raw or any(v is not None for v in encoded.values())
        if ids is not None:
            run.guesses = guessed(self.local)
        if raw and ids is not None and self.family.joins_units:
            check_counts(self.plan, runs(self._visual(ids)))
        # What a source of guesses copied out of the prompt is no image.
        own = None if ids is None else ids[:, : ids.shape[1] - run.guesses]
        if own is not None and own.shape[1] > 1 and not run.pictures and bool((visual := self._visual(own)).any()):
            raise ModelError(
                f"{int(visual.sum())} image placeholders in input_ids, but no pixel_values with them; pass both in "
                "one call; leave prefill_chunk_size unset (chunked prefill parts them), and attach no plan to an "
                "assistant model (it is given no images)"
            )
        if ids is not None and run.pictures and self.plan.cuts:
            check_rows(kwargs, ids.shape[1], bool(getattr(self.local, "last_only", False)))
        for kind, output in encoded.items():
            if output is None or self.family.by_runs:
                continue
            encoding = getattr(output, MARK, None)
            if not isinstance(encoding, Encoding) or encoding.owner is not self:
                encoding = self.pending.get(kind)
            if encoding is None or not encoding.made(output):
                raise ModelError(
                    f"the pre-encoded {kind} features were not made by this attachment: encode them while it is "
                    "attached, and leave prefill_chunk_size unset (chunked prefill cuts prompts where images are)"
                )
            run.encoded[kind] = encoding.images
            run.seconds += encoding.seconds

    def _end(self, _base: Any, _args: Any, _output: Any) -> None:
        run, self.local.run = self.run, None
        self.local.dropped = run.dropped_BL if run else None

    # -- the language model

    def _lm_in(self, lm: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        run = self.run
        kwargs = named(lm, args, kwargs)
        cache = given(kwargs)
        if run is None:
            check_cache(cache)
        cuts = cuts_of(cache)
        images = run is not None and self._has_images(run) and bool(self.plan.cuts)
        if not images and length(cache) == 0:
            self.report = None
        embeds = kwargs.get("inputs_embeds")
        if run is None and self.family.by_runs and self.plan.cuts and not length(cache) and embeds is not None:
            raise ModelError(
                f"{type(self.model).__name__} calls its language model by itself here, where nobody sees which tokens "
                "are visual; call forward, or detach first"
            )
        if not (cuts or images):
            self._listen(None)
            return None
        easy = not images and self.plain and not self.windows
        if run is None:
            # The language model was called by itself, on a cache that was cut.
            run = self.local.run = Run(alone=True)
        if easy and (new := light(cuts, kwargs, str(lm.config._attn_implementation), run)) is not None:
            self._listen(None)
            return ((), kwargs | new) if new else None
        self._listen(run)
        if lm.training and getattr(lm, "gradient_checkpointing", False) and self.layer_cuts:
            raise ModelError(
                "gradient checkpointing runs decoder layers twice, and cuts inside the LLM cannot follow; call "
                "model.gradient_checkpointing_disable(), or cut at the input alone"
            )
        kwargs = dict(kwargs)
        if images and self.windows and run.ids is not None and self._drops(run.ids):
            use = kwargs.get("use_cache")
            if cache is None and (getattr(lm.config, "use_cache", True) if use is None else use):
                cache = DynamicCache(config=lm.config)
                kwargs[next(n for n in NAMES if n in inspect.signature(lm.forward).parameters)] = cache
            if cache is not None:
                widen(cache)
        # Some base models make masks of several kinds out of the padding mask, before the language model sees it.
        told = kwargs if run.alone else kwargs | {"attention_mask": run.mask}
        if embeds is None:
            # The model makes its embeddings itself: its first layer shows them.
            run.late = functools.partial(self._start, run, told, images)
            return None
        step = self._start(run, told, images, embeds)
        return (), kwargs | step.moved()

    def _start(self, run: Run, kwargs: dict[str, Any], images: bool, embeds: Tensor) -> Step:
        """Make the cuts at the input, on what the language model is given."""
        step = run.step = Step(self.family, self.lm, kwargs | {"inputs_embeds": embeds}, self.contiguous)
        run.layers = Layers(step)
        if images:
            hidden = step.embeds
            cutting = run.cutting = Cutting(step, self._prompt(run, step))
            if not torch.equal(cutting.prompt.alive_BL, cutting.prompt.real_BL):
                hidden = cutting.shorten(hidden, step.slots(), [])
            for cut in self.input_cuts:
                hidden = cutting.cut(cut, hidden, None)
            step.base = step.segment
        return step

    def _has_images(self, run: Run) -> bool:
        if run.ids is None or not self.family.by_runs:
            return run.ids is not None and bool(run.encoded)
        return run.pictures and bool(self._visual(run.ids).any())

    def _drops(self, ids: Tensor) -> bool:
        """Whether some cut may drop something of some image."""
        counts = runs(self._visual(ids))
        shared = any(cut.over == "prompt" or cut.per == "prompt" for cut in self.plan.cuts)
        return shared or any(cut.count(n) < n for cut in self.plan.cuts for n in counts)

    def _visual(self, ids: Tensor) -> Tensor:
        """Placeholders of either kind."""
        config = self.base.config
        return placeholders(ids, self.family.token_id(config, "image")) | placeholders(
            ids, self.family.token_id(config, "video")
        )

    def _prompt(self, run: Run, step: Step) -> Prompt:
        assert run.ids is not None
        ids = run.ids.to(step.embeds.device)
        real = step.real_BL
        visual = self._visual(ids)
        if self.family.by_runs:
            images = by_runs(self.family, ids, self.base.config)
        else:
            images = locate(self.family, ids, self.base.config, run.encoded)  # type: ignore[arg-type]
        special = torch.isin(ids, self.special.to(ids.device))
        prompts = real if self.answers_B is None else without_last(real, self.answers_B.to(real.device))
        if run.guesses:
            step.guesses = run.guesses
            prompts = without_last(prompts, torch.full((1,), run.guesses, device=real.device))
        asks, loose = question(prompts, visual, special, self.tail)
        alive, last = real.clone(), last_real(prompts)
        if self.family.joins_units:
            # Only now is it known what makes one image.
            check_counts(self.plan, [i.tokens for i in images])
        for row in sorted({i.row for i in images}):
            check_shares(self.plan, [i.tokens for i in images if i.row == row])
        ends = visual.gather(1, last.unsqueeze(1)).flatten().tolist()
        for image in images:
            if ends[image.row] and bool((here := image.place_N == last[image.row]).any()):
                image.anchor = int(here.nonzero())
                image.alive = anchored(image)
            if len(image.alive) < image.tokens:
                alive[image.row, image.place_N] = False
                alive[image.row, image.place_N[image.alive]] = True
            if self.encoder_cut is not None:
                asked = sum(self.encoder_cut.count(n) for n in image.units)
                image.cuts.append(("encoder", asked, image.alive))
        return Prompt(images, real, visual, asks, loose, last, alive)

    def _layer_in(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.run
        if run is not None and run.late is not None:
            start, run.late = run.late, None
            start(args[0] if args else kwargs["hidden_states"])
        if run is None or run.step is None or run.layers is None:
            return None
        step, layers, cutting = run.step, run.layers, run.cutting
        names = self.names[number][: len(args)]
        told = dict(zip(names, args, strict=True)) | kwargs
        hidden = told["hidden_states"]
        if not step.of_layer:
            hidden = step.first(hidden)
        elif not self.plain:
            hidden = step.short(hidden)
        cut = self.layer_cuts.get(number)
        if cut is not None and cutting is not None:
            hidden = self._cut_layer(layers, cutting, cut, number, told | {"hidden_states": hidden})
        told["hidden_states"] = hidden
        layers.enter(number + told.get("cache_offset", 0), hidden, told, layer)
        if number + 1 in self.layer_cuts and cutting is not None:
            cutting.previous = dict(told)
        return tuple(told.pop(n) for n in names), told

    def _deepstack(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Qwen3-VL adds tower features between layers: to the tokens that are still there."""

        @functools.wraps(original)
        def add(hidden: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
            run = self.run
            if run is not None and run.step is not None and self.plain:
                visual_pos_masks, visual_embeds = run.step.deepstack(hidden, visual_pos_masks, visual_embeds)
            return original(hidden, visual_pos_masks, visual_embeds)

        return add

    def _cut_layer(self, layers: Layers, cutting: Cutting, cut: Cut, number: int, told: dict[str, Any]) -> Tensor:
        hidden, previous = told["hidden_states"], cutting.previous

        def attention(asked: Attention) -> Tensor:
            i, of = (number, told) if asked.layer == "own" else (number - 1, previous or {})
            layer, cached = self.lm.layers[i], i + of.get("cache_offset", 0)
            if asked.layer == "own":
                of = layers.peek(cached, hidden, of, layer)
            return cutting.rater_attention(asked, cached, layer, of, self.projections)

        def norms() -> Tensor:
            return key_norms(self.lm.layers[number - 1], (previous or {})["hidden_states"])

        return cutting.cut(cut, hidden, attention, norms)

    def _layer_out(self, _layer: Any, _args: Any, output: Any) -> Any:
        run = self.run
        if run is None or run.step is None or run.step.segment.index_BM is None:
            return None
        if isinstance(output, tuple):
            return (run.step.long(output[0]), *output[1:])
        return run.step.long(output)

    def _lm_out(self, _lm: Any, _args: Any, output: Any) -> Any:
        run = self.run
        if run is None:
            return None
        if run.alone:
            self.local.run = None
        if run.step is None:
            return None
        step, run.step = run.step, None
        self._listening.discard(run)
        cut = any(s.index_BM is not None for s in step.of_layer)
        cache = left(output) if not isinstance(output, tuple) else step.cache
        if cut and cache is not None:
            step.remember(cache)
            settle(cache, step.real_BT, step.masked and not bool(step.real_BT.all()))
        if run.cutting is not None:
            run.dropped_BL = ~run.cutting.prompt.alive_BL if cut else None
            self.report = account(step, run.cutting.prompt, cache, run.seconds)
        maps = not isinstance(output, tuple) and output.get("attentions") is not None
        return restore(step, output, self.plain) if cut or maps else None


def attach(model: nn.Module, plan: Plan, tail: int | None = None, probe: bool | None = None) -> Attachment:
    """Make a stock Hugging Face VLM drop visual tokens as the plan says, until detached.

    Works with `generate` (greedy, sampling, beams, several return sequences), plain `forward` with or without labels,
    any mix of prompts and images in a batch, and chats that go on from a cache. What goes in and out keeps its length.

    Args:
        model: a model of a supported type (`foveate list`), e.g. LlavaForConditionalGeneration: the one you call. (A
            loss computed by a head outside of it cannot leave out positions that are gone.)
        plan: what to drop where; from `foveate.methods.METHODS`, from a file, or your own.
        tail: how many tokens close the prompt after the question ("ASSISTANT:"); they are never dropped, and are no
            question. None is `template_tail` of the model's config, or the family's usual count.
        probe: whether to try on a dozen tokens that cutting does to this language model what never sending does (see
            `probe.py` for the cost). None tries types without a family of their own, once for each model object.

    Returns:
        The attachment: a context manager with `.report` and `.detach()`.

    Raises:
        PlanError: the plan does not fit the model.
        ModelError: the model, or its attention implementation, is not supported, or the probe failed.
        SignalError: the plan reads a signal that the model cannot give.
    """
    if probe or (probe is None and isinstance(plan, Plan) and family(unwrapped(model)).by_runs):
        held_against(model, Attachment)
    return Attachment(model, plan, tail)
