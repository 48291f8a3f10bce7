"""vLLM's model classes with Foveate mixed in: what each family's parts are called."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from vllm.model_executor.models import interns1, llava, llava_next, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl
from vllm.model_executor.models.interfaces import SupportsMRoPE
from vllm.multimodal import MULTIMODAL_REGISTRY

from foveate.engines.vllm.processor import Pruned
from foveate.engines.vllm.towers import Recorder
from foveate.engines.vllm.worker import Foveated
from foveate.geometry import GEOMETRIES
from foveate.geometry.base import Unit, join
from foveate.geometry.tower import consecutive_cells, square_cells


def served(stock: type, processor: type, name: str) -> Callable[[Any], Any]:
    """Give a class its geometry, and the stock processor with ours mixed in."""
    geometry = GEOMETRIES[name]
    kind = type(f"Pruned{processor.__name__}", (Pruned, processor), {"geometry": geometry})
    parts = stock._processor_factory  # type: ignore[attr-defined]
    register = MULTIMODAL_REGISTRY.register_processor(kind, info=parts.info, dummy_inputs=parts.dummy_inputs)

    def finish(model: Any) -> Any:
        model.geometry = geometry
        return register(model)

    return finish


class OneAxis(Foveated):
    """Families whose RoPE has one axis. The runner keeps three equal ones; the decoder gets the first."""

    vision_tower: Any

    def rope(self, positions: Tensor) -> Tensor:
        """The first of three equal axes."""
        return positions[0]

    def whole_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Tensor:
        """One after another."""
        return torch.arange(len(input_tokens)).expand(3, -1)

    def recorder(self, reads: frozenset[str], first: bool = False) -> Recorder:
        """The last layer of the tower, which vLLM builds up to the feature layer and no further, or the first."""
        layer, config = self.vision_tower.vision_model.encoder.layers[0 if first else -1], self.config.vision_config
        cls, cells = self.geometry.has_cls(self), partial(square_cells, merge=1)
        return Recorder(reads, layer.self_attn, layer, config.num_attention_heads, cls, cells)


class Tiled(OneAxis):
    """LLaVA-NeXT and OneVision."""

    packing: ClassVar[Any]
    """transformers' own model of the family, whose packing the geometry asks for."""

    def pack_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers packs."""
        return self.packing.pack_image_features(SimpleNamespace(config=self.config), *args, **kwargs)

    def signals(self, recorder: Recorder, call: Any, units: list[Unit]) -> list[dict[str, Tensor]]:
        """vLLM's tower also runs the tiles that a batch was padded with; the geometry never sees them."""
        side = self.geometry.patches(self)
        mine = [len(p) * side for p in call["pixel_values"]]
        real = [n * side for n in self.geometry.tiles(self, call)]

        def without_padding(rows: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            return torch.cat([part[:n] for part, n in zip(rows(x).split(mine), real, strict=True)])

        for one in (recorder, recorder.first):
            if one:
                one.rows = partial(without_padding, one.rows)
        return super().signals(recorder, call, units)


class Qwen(Foveated):
    """Three axes: frame, row, column."""

    visual: Any

    def whole_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Tensor:
        """vLLM's own rule."""
        positions, _ = super(Foveated, self).get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        return positions

    def recorder(self, reads: frozenset[str], first: bool = False) -> Recorder:
        """The last block that sees the whole frame, or the first one; for features what the merger norms, since blocks
        call no hooks."""
        visual, config = self.visual, self.config.vision_config
        cells = partial(consecutive_cells, merge=visual.spatial_merge_size**2)
        attention = visual.blocks[self.geometry.full_block(self, first)].attn
        norm = visual.merger.norm if hasattr(visual.merger, "norm") else visual.merger.ln_q
        return Recorder(reads, attention, norm, config.num_heads, False, cells, into=True)


@served(llava.LlavaForConditionalGeneration, llava.LlavaMultiModalProcessor, "llava")
class Llava(OneAxis, llava.LlavaForConditionalGeneration, SupportsMRoPE):  # type: ignore[misc]
    """LLaVA-1.5."""


@served(llava_next.LlavaNextForConditionalGeneration, llava_next.LlavaNextMultiModalProcessor, "llava_next")
class LlavaNext(Tiled, llava_next.LlavaNextForConditionalGeneration, SupportsMRoPE):  # type: ignore[misc]
    """LLaVA-NeXT."""

    packing = LlavaNextModel


@served(
    llava_onevision.LlavaOnevisionForConditionalGeneration,
    llava_onevision.LlavaOnevisionMultiModalProcessor,
    "llava_onevision",
)
class LlavaOnevision(Tiled, llava_onevision.LlavaOnevisionForConditionalGeneration, SupportsMRoPE):  # type: ignore[misc]
    """LLaVA-OneVision."""

    packing = LlavaOnevisionModel


@served(qwen2_vl.Qwen2VLForConditionalGeneration, qwen2_vl.Qwen2VLMultiModalProcessor, "qwen2_vl")
class Qwen2VL(Qwen, qwen2_vl.Qwen2VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2-VL."""

    supports_encoder_cudagraph = False


@served(qwen2_5_vl.Qwen2_5_VLForConditionalGeneration, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor, "qwen2_5_vl")
class Qwen25VL(Qwen, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2.5-VL."""

    supports_encoder_cudagraph = False


@served(qwen3_vl.Qwen3VLForConditionalGeneration, qwen3_vl.Qwen3VLMultiModalProcessor, "qwen3_vl")
class Qwen3VL(Qwen, qwen3_vl.Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen3-VL, whose rows carry DeepStack levels behind the channels."""

    supports_encoder_cudagraph = False

    def states(self, rows: Tensor) -> Tensor:
        """Without the levels."""
        return rows[:, : self.visual_dim]


@served(interns1.InternS1ForConditionalGeneration, interns1.InternS1MultiModalProcessor, "internvl")
class InternVL(OneAxis, interns1.InternS1ForConditionalGeneration, SupportsMRoPE):  # type: ignore[misc]
    """InternVL, an image as one or more tiles."""

    def units(self, call: Any) -> list[Unit]:
        """vLLM knows which tiles make one image."""
        counts = [int(n) for n in call["image_num_patches"]]
        tiles = self.geometry.units(self, "image", {"pixel_values": torch.empty(sum(counts))})
        return [join([tiles.pop(0) for _ in range(n)]) for n in counts]

    def recorder(self, reads: frozenset[str], first: bool = False) -> Recorder:
        """The last layer, or the first."""
        layer, config = self.vision_tower.encoder.layer[0 if first else -1], self.config.vision_config
        cells = partial(square_cells, merge=self.geometry.merge(self))
        return Recorder(reads, layer.attention, layer, config.num_attention_heads, True, cells)
