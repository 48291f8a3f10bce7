"""The floor of what pruning could cost: the plain model given a prompt that never had the dropped tokens.

The tower runs over the whole image, as it does under a plan; its features are then picked, joined with the words, and
given to `generate` as embeddings. Where every cut is before the decoder, the prompt holds exactly the tokens that the
plan kept. A plan that cuts inside the decoder has no such prompt; it is measured against one with as many visual tokens
as the plan's budget (the mean over the layers), evenly spaced, which costs about the same. Positions count from the
start without gaps: time does not depend on them. Qwen3-VL's DeepStack additions are left out, so its floor is a little
too low.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt
from foveate.hf.families import family
from foveate.hf.locating import placeholders
from foveate.hf.report import ImageReport, Report


@dataclass(frozen=True)
class Oracle:
    """A prompt that never had the dropped tokens.

    Args:
        encode: runs the tower and gives the arguments of `generate`.
        visual: visual tokens of the whole batch.
        equal: "tokens" if they are the plan's own, "budget" if only as many.
    """

    encode: Callable[[], dict[str, Tensor]]
    visual: int
    equal: str


def oracle(engine: Engine, prompt: Prompt, report: Report) -> Oracle:
    """The oracle of what `report` says was kept of `prompt`'s images."""
    model = engine.model
    f = family(model)
    base = f.base(model)
    ids_BL: Tensor = prompt.inputs["input_ids"]
    visual_BL = placeholders(ids_BL, f.token_id(model.config, "image"))
    exact = all(isinstance(c.at, str) for i in report.images for c in i.cuts)
    keep_N = torch.zeros(report.tokens, dtype=torch.bool)
    start = 0
    for image in report.images:
        keep_N[start + kept_tokens(image, exact)] = True
        start += image.tokens
    keep_N = keep_N.to(ids_BL.device)
    alive_BL: Tensor = visual_BL.logical_not()
    alive_BL[visual_BL] = keep_N
    alive_BL &= prompt.inputs["attention_mask"].bool()
    width = int(alive_BL.sum(1).max())
    rows = [line[a] for line, a in zip(ids_BL, alive_BL, strict=True)]
    short_BL = torch.stack([F.pad(r, (width - len(r), 0)) for r in rows])
    mask_BL = torch.stack([F.pad(torch.ones_like(r), (width - len(r), 0)) for r in rows])
    where_BL1 = (placeholders(short_BL, f.token_id(model.config, "image")) & mask_BL.bool()).unsqueeze(-1)
    words_BL = short_BL.masked_fill(where_BL1.squeeze(-1), 0)
    takes = inspect.signature(base.get_image_features).parameters
    images = {k: v for k, v in prompt.inputs.items() if k in takes}

    def encode() -> dict[str, Tensor]:
        features = base.get_image_features(**images, return_dict=True).pooler_output
        picked = torch.cat([x.reshape(-1, x.shape[-1]) for x in features])[keep_N]
        embeds = model.get_input_embeddings()(words_BL)
        return {"inputs_embeds": embeds.masked_scatter(where_BL1, picked.to(embeds.dtype)), "attention_mask": mask_BL}

    return Oracle(encode, int(keep_N.sum()), "tokens" if exact else "budget")


def kept_tokens(image: ImageReport, exact: bool) -> Tensor:
    """Indices of the tokens that the oracle has of one image."""
    if exact:
        return torch.tensor(image.cuts[-1].kept) if image.cuts else torch.arange(image.tokens)
    n = max(1, round(image.budget))
    return torch.arange(n) * image.tokens // n
