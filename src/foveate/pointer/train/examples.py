"""Questions with answers, from a data file, as a training task for a model of any family.

The model runs as far as its language model, under an attachment that drops nothing; there a hook notes what the
language model was about to be given, where each image stands and which text asks, and ends the call. What is learned
from is therefore what a selector sees in use. The loss then calls the language model itself, without the places that
are left out, exactly as a cut at the input leaves them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.score import prepare_examples
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.cache import NAMES
from foveate.hf.encoder_cut import projected
from foveate.hf.families import family
from foveate.hf.prompt import Image, Prompt, squeeze_index
from foveate.hf.segment import Segment, gather
from foveate.hf.step import Step
from foveate.methods.uniform import Uniform
from foveate.plan import Plan
from foveate.pointer.candidates import Candidates
from foveate.pointer.noise import Support
from foveate.pointer.train.answered import NONE, answered
from foveate.pointer.train.gaze import gazes, teaching
from foveate.pointer.train.partway import EVERYTHING, Enough, run_partway
from foveate.pointer.train.task import Seen
from foveate.question import question

_MEASURED = 16
_WITH_FEATURES = Plan((Cut("encoder", Uniform(), 1.0),))


@dataclass(frozen=True)
class Given:
    """What the language model was about to be given, and what it should say next at each place (-100: anything)."""

    kwargs: dict[str, Any]
    images: list[Image]
    question_BL: Tensor
    visual_BL: Tensor
    next_BL: Tensor
    contiguous: bool


class Examples:
    """A `Task` over examples; each is answered with its first answer.

    Args:
        engine: from `foveate.engines.loading.load`.
        examples: all with an answer and at least one picture.
        place: where the selector to come stands, "input" or "encoder": what it is shown.

    Raises:
        FoveateError: an example has none.
    """

    def __init__(self, engine: Engine, examples: Sequence[Example], place: str = "input") -> None:
        for e in examples:
            if not e.answers or not e.images:
                raise FoveateError(f"example {e.id} has no {'picture' if e.answers else 'answer'}; training needs both")
        self.engine, self.examples = engine, list(examples)
        self.place, self.plan = place, _WITH_FEATURES if place == "encoder" else EVERYTHING
        self.family = family(engine.model)
        self.lm = self.family.language_model(engine.model)
        self._looked: dict[tuple[int, ...], list[Tensor]] = {}

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    def look(self, numbers: Sequence[int]) -> Seen:
        """All pictures of these examples, one after another."""
        given = self.given([self.examples[n] for n in numbers])
        embeds = given.kwargs["inputs_embeds"]
        tokens = [embeds[i.row, i.place_N] for i in given.images]
        if self.place == "encoder":
            tokens = [self._features(projected(i.signals), t) for i, t in zip(given.images, tokens, strict=True)]
        words = [embeds[i.row, given.question_BL[i.row]] for i in given.images]
        tokens_BND, real_BN = _stack(tokens)
        text_BTD, said_BT = _stack(words)
        return Seen(Candidates(tokens_BND, real_BN, text_BTD, said_BT), given)

    @torch.no_grad()
    def given(self, examples: Sequence[Example]) -> Given:
        """Run the model as far as its language model.

        Raises:
            FoveateError: it is given masks for all places that were made before, which are not those of fewer places.
        """
        model = self.engine.model
        prompt = prepare_examples(self.engine, examples)
        ids_BL = prompt.inputs["input_ids"]
        inputs, next_BL = answered(self.engine, prompt.inputs, [e.answers[0] for e in examples])
        noted: dict[str, Any] = {}

        def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            noted.update(kwargs)
            places.append(attached.run.cutting.prompt)  # type: ignore[union-attr]
            raise Enough

        places: list[Prompt] = []
        with attach(model, self.plan, tail=prompt.tail) as attached:
            run_partway(model, inputs, [(attached.lm, note)])
        (place,) = places
        mask = noted.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise FoveateError(
                f"selectors cannot be trained for {self.engine.facts.model_type}, whose pictures see themselves both "
                "ways, which the shorter prompts of training do not; use a method that needs no training"
            )
        length = ids_BL.shape[1]
        special_BL = torch.isin(ids_BL.cpu(), attached.special)
        asks_BL, _ = question(place.real_BL[:, :length], place.visual_BL[:, :length], special_BL, prompt.tail)
        asks_BL = F.pad(asks_BL, (0, next_BL.shape[1] - length))
        return Given(noted, place.images, asks_BL, place.visual_BL, next_BL, attached.contiguous)

    def teachers(self) -> list[int]:
        """The layers whose last token looks most at the pictures of the first examples."""
        return teaching(self.engine, (self._prompt([n]) for n in range(min(self.size, _MEASURED))))

    def gaze(self, numbers: Sequence[int], layers: Sequence[int]) -> Tensor:
        """What the last token of each prompt looks at in these layers, picture by picture, [B, N]; looked up once."""
        if unknown := [n for n in dict.fromkeys(numbers) if (n, *layers) not in self._looked]:
            for n, of in zip(unknown, gazes(self.engine, self._prompt(unknown), layers), strict=True):
                self._looked[n, *layers] = [m.sum(0).cpu() for m in of]
        return _stack([m for n in numbers for m in self._looked[n, *layers]])[0].to(self.engine.model.device)

    def _prompt(self, numbers: Sequence[int]) -> Any:
        return prepare_examples(self.engine, [self.examples[n] for n in numbers])

    def loss(self, seen: Seen, tokens_BSD: Tensor, alpha_BS: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """Over the answers' tokens, the end token among them."""
        given: Given = seen.material
        if self.place == "encoder":
            tokens_BSD = self._projected(tokens_BSD)
        embeds = given.kwargs["inputs_embeds"].clone()
        alive_BL = _real(given) & ~given.visual_BL
        weight_BL = torch.ones(alive_BL.shape, device=embeds.device)
        rows = zip(given.images, tokens_BSD, alpha_BS, support.places_BS, support.there_BS, strict=True)
        for image, tokens_SD, alpha_S, places_S, here in rows:
            at = image.place_N[places_S[here].cpu()]
            row = at.new_tensor(image.row)
            embeds = embeds.index_put((row, at), tokens_SD[here].to(embeds))
            weight_BL = weight_BL.index_put((row, at), alpha_S[here].float())
            alive_BL[image.row, at] = True
        kwargs, index_BM = self._shorter(given, embeds, alive_BL, weight_BL)
        out = self.lm(**kwargs)
        next_BM = gather(given.next_BL, index_BM.clamp(min=0)).masked_fill(index_BM < 0, NONE)
        said = next_BM != NONE
        scores = self.engine.model.get_output_embeddings()(out.last_hidden_state[said]).float()
        return F.cross_entropy(scores, next_BM[said]), (scores.argmax(-1) == next_BM[said]).float().mean()

    def _projected(self, features_BSC: Tensor) -> Tensor:
        """What the projector makes of each token."""
        projector = self.family.projector(self.family.base(self.engine.model))
        projected: Tensor = projector(features_BSC.to(next(projector.parameters()).dtype))
        return projected

    def _features(self, features_NC: Tensor, tokens_ND: Tensor) -> Tensor:
        """The tower's tokens, if the projector brings each by itself to what the LLM receives.

        Raises:
            FoveateError: it does not.
        """
        try:
            made = self._projected(features_NC[None])[0]
            same = made.shape == tokens_ND.shape and torch.allclose(made.float(), tokens_ND.float(), 0.05, 0.05)
        except RuntimeError:
            same = False
        if not same:
            raise FoveateError(
                f"the published recipe trains before the projector, but {self.family.model_type}'s makes its tokens of "
                "more than one of the tower's each, or of none; use --recipe coverage"
            )
        return features_NC

    def _shorter(
        self, given: Given, embeds: Tensor, alive_BL: Tensor, weight_BL: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """The language model's arguments without the places that are left out, and which places stay."""
        host_BM, filled = squeeze_index(alive_BL)
        index_BM = host_BM.to(embeds.device)
        kwargs = dict(given.kwargs) | {"inputs_embeds": embeds, "use_cache": False} | dict.fromkeys(NAMES)
        kwargs = {k: v for k, v in kwargs.items() if k not in NAMES or k in given.kwargs}
        step = Step(self.family, self.lm, kwargs, given.contiguous)
        step.segment = step.base = Segment(index_BM, new=True, filled=filled, host_BM=host_BM)
        kwargs |= step.arguments() | {"inputs_embeds": gather(embeds, step.base.safe_BM)}
        planes = kwargs.get("deepstack_visual_embeds")
        if planes is not None:
            # DeepStack adds features of the tower again, deeper down: a token that is half kept has half of them.
            weight_V1 = weight_BL[kwargs["visual_pos_masks"]].unsqueeze(1)
            planes = [p * weight_V1.to(p) for p in planes]
            cut = [step.deepstack(kwargs["inputs_embeds"], kwargs["visual_pos_masks"], p) for p in planes]
            kwargs |= {"visual_pos_masks": cut[0][0], "deepstack_visual_embeds": [plane for _, plane in cut]}
        return kwargs, index_BM


def _real(given: Given) -> Tensor:
    mask = given.kwargs.get("attention_mask")
    return torch.ones_like(given.visual_BL) if mask is None else mask.bool().cpu()


def _stack(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows of several lengths side by side in float32, and which are real; None where all are."""
    width = max(len(r) for r in rows)
    stacked = torch.stack([F.pad(r.float(), (0, 0) * (r.ndim - 1) + (0, width - len(r))) for r in rows])
    counts = torch.tensor([len(r) for r in rows], device=stacked.device)
    real = torch.arange(width, device=stacked.device) < counts.unsqueeze(1)
    return stacked, None if bool(real.all()) else real
