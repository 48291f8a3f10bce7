"""The front end: settings join the hash, and every image gets exactly as many placeholders as tokens will stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import EmbeddingItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from foveate.engines.prompting import usual_tail
from foveate.engines.vllm import settings
from foveate.engines.vllm.filling import merges
from foveate.engines.vllm.hook import SPREAD
from foveate.engines.vllm.limits import check_room
from foveate.engines.vllm.settings import KEY, Order, Wish
from foveate.errors import ModelError, PlanError, SignalError
from foveate.fields import TOWER
from foveate.plan import Plan
from foveate.question import marked
from foveate.servable import check_servable


@dataclass
class Shortened(PromptUpdateDetails):  # type: ignore[misc]
    """An image's placeholders, and how many positions it takes beyond them. Kept by vLLM's cache with the item."""

    beyond: int = 0


def without(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's own processor may see."""
    return {name: value for name, value in kwargs.items() if name != KEY}


class Pruned:
    """Mixed into a family's multimodal processor, before it."""

    geometry: ClassVar[Any]
    info: Any

    @cached_property
    def config(self) -> Any:
        """The model's."""
        return self.info.get_hf_config()

    @cached_property
    def server(self) -> Wish:
        """What the server was started with."""
        return settings.read(getattr(self.config, KEY), self.depth, ours=True)

    @property
    def visual(self) -> Any:
        """Where geometry looks for the sizes of a tower: there is none here, but its config."""
        return self.config.vision_config

    @property
    def depth(self) -> int:
        """Decoder layers."""
        return int(self.config.get_text_config().num_hidden_layers)

    def order(self, asked: Any, ids: Sequence[int], images: int) -> Order:
        """What is to be done for one request.

        Raises:
            PlanError: it cannot be served.
        """
        order = settings.order(None if asked is None else settings.read(asked, self.depth), self.server, images)
        if order.plan is None:
            return order
        self.check(order.plan)
        if images and "text_BTD" in order.plan.reads:
            order = replace(order, question=settings.question_ids(ids, self.images, self.special, self.tail))
        return order

    def check(self, plan: Plan) -> None:
        """Refuse what this engine, or this model, cannot do.

        Raises:
            PlanError, SignalError, ModelError: saying what can be done instead.
        """
        check_servable(plan)
        (cut,) = plan.cuts
        who = type(cut.select).__name__
        if "cls_cos_BN" in cut.select.reads and not self.geometry.has_cls(self):
            raise SignalError(
                f"{who} reads cls_cos_BN, the cosine to [CLS], but this vision tower has no [CLS]; use a method that "
                "reads cls_attn_BN, which is the attention received here"
            )
        if cut.per == "prompt":
            raise PlanError(
                'per="prompt" counts the images of a request together, before their sizes are known here; give each '
                'its keep, and the request a budget: "request_tokens"'
            )
        if cut.at == "encoder" and merges(cut.select):
            raise PlanError(
                f'{who} merges tokens before the projector, and a server chooses behind it; cut at "input" instead'
            )
        if cut.at == "encoder" and not isinstance(getattr(self.config, "vision_feature_layer", -1), int | None):
            raise PlanError(
                "this model's projector joins features of several tower layers, of which a server sees the last one's "
                'alone; cut at "input" instead'
            )
        if cut.at == "encoder" and self.geometry.joins_units:
            raise PlanError(f'{self.geometry.model_type} is pruned tile by tile at the encoder; cut at "input" instead')
        if plan.reads & frozenset(TOWER) and getattr(self.config, SPREAD, False):
            raise SignalError(
                f"{who} reads the vision tower, whose images are spread over ranks here; start the server without "
                '--mm-encoder-tp-mode data, or use a method that reads the tokens alone, such as "divprune"'
            )

    @cached_property
    def images(self) -> frozenset[int]:
        """Ids that stand for an image."""
        names = ("image_token_id", "image_token_index")
        return frozenset(i for n in names if (i := getattr(self.config, n, None)) is not None)

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that are no text."""
        said = SimpleNamespace(**self.info.ctx.model_config.try_get_generation_config())
        configs = [self.config, self.config.get_text_config(), said]
        return frozenset(marked(configs, self.info.get_tokenizer()).tolist())

    @cached_property
    def tail(self) -> int:
        """Tokens that close a prompt after the question."""
        return usual_tail(self.info.get_hf_processor())

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Settle the order of the request before anything is hashed."""
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        items = inputs.mm_data_items
        images = items.get_all_counts().get("image", 0)
        asked = kwargs.pop(KEY, None)
        order = asked if isinstance(asked, Order) else self.order(asked, inputs.prompt, images)
        if order.plan is not None and isinstance(items.get("image"), EmbeddingItems):
            raise ModelError(
                "image embeddings come encoded, so nothing can be chosen among them here; send images, or ask for "
                f'{{"{KEY}": "all"}}'
            )
        kwargs[KEY] = settings.write(order)
        return super().apply(replace(inputs, hf_processor_mm_kwargs=kwargs), timing_ctx)  # type: ignore[misc]

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Memory is sized for images that keep everything: the encoder sees them whole, and a request may want it."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, KEY: Order(None)})

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Any) -> Any:
        """The model's processor never sees the settings; the worker gets them with each image."""
        data = super()._apply_hf_processor_main(mm_items, without(hf_kwargs))  # type: ignore[misc]
        if (n := mm_items.get_all_counts().get("image", 0)) and not isinstance(mm_items["image"], EmbeddingItems):
            text = torch.frombuffer(bytearray(hf_kwargs[KEY].encode()), dtype=torch.uint8)
            data[KEY] = text.expand(n, -1).clone()
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> dict[str, Any]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, without(hf_processor_mm_kwargs)))  # type: ignore[misc]
        if KEY in hf_inputs:
            fields[KEY] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> list[Any]:
        updates = super()._get_prompt_updates(mm_items, without(hf_processor_mm_kwargs), out_mm_kwargs)  # type: ignore[misc]
        order = settings.parse(hf_processor_mm_kwargs[KEY])
        return [self._shorter(u, order, out_mm_kwargs) if u.modality == "image" else u for u in updates]

    def _shorter(self, update: Any, order: Order, data: Any) -> Any:
        """The same update, with as many placeholders as the order keeps."""

        def replacement(item: int) -> Shortened:
            content = update.replacement(item) if callable(update.replacement) else update.replacement
            ids = list(getattr(content, "full", content))
            marks = getattr(content, "is_embed", None)
            places = marks(ids).nonzero().flatten().tolist() if marks else list(range(len(ids)))
            n = len(places)
            k = order.count(n)
            dropped = set(places[k:])
            return Shortened(
                [x for i, x in enumerate(ids) if i not in dropped], marks, self._span(data["image"][item], n) - k
            )

        return PromptReplacement(modality="image", target=update.target, replacement=replacement)

    def _span(self, item: Any, tokens: int) -> int:
        """Positions that an image takes."""
        if not self.geometry.mrope:
            return tokens
        (unit,) = self.geometry.units(self, "image", {"image_grid_thw": item["image_grid_thw"].data[None]})
        return int(self.geometry.span(unit))

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        ids, placeholders = super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]
        beyond = sum(u[0].content.beyond for u in mm_res.prompt_updates.get("image", ()))
        check_room(self.config, len(ids), beyond, self.info.ctx.model_config.max_model_len)
        return ids, placeholders
