"""The prompts of a pass, once they are embedded: where their images stand, and what an encoder cut left of them."""

from typing import Any

import torch

from foveate.hf.beginning import visual_of
from foveate.hf.locating import by_runs, locate
from foveate.hf.plan_checks import check_counts, check_shares
from foveate.hf.prompt import Prompt, anchored, last_real, without_last
from foveate.hf.run import Run
from foveate.hf.step import Step
from foveate.question import question


def prompt_of(attached: Any, run: Run, step: Step) -> Prompt:
    """The prompts of this pass.

    Raises:
        PlanError, ModelError: counts that do not fit them, images that do not.
    """
    assert run.ids is not None
    ids, device, real = run.ids, step.embeds.device, step.real_BL
    visual = visual_of(attached, ids)
    if run.given:
        images = run.given
    elif attached.family.by_runs:
        images = by_runs(attached.family, ids, attached.base.config)
    else:
        images = locate(attached.family, ids, attached.base.config, run.encoded, device)  # type: ignore[arg-type]
    special = torch.isin(ids, attached.special)
    prompts = real if attached.answers_B is None else without_last(real, attached.answers_B.cpu())
    if run.guesses:
        step.guesses = run.guesses
        prompts = without_last(prompts, torch.full((1,), run.guesses))
    asks, loose = question(prompts, visual, special, attached.tail)
    alive, last = real.clone(), last_real(prompts)
    if attached.family.joins_units:
        # Only now is it known what makes one image.
        check_counts(attached.plan, [i.tokens for i in images])
    for row in sorted({i.row for i in images}):
        check_shares(attached.plan, [i.tokens for i in images if i.row == row])
    step.padded, step.visual_BL = not bool(step.real_BT.all()), visual
    for image in images:
        here = image.place_N == last[image.row]
        if bool(here.any()):
            image.know()
            image.anchor = int(here.nonzero())
            image.alive = anchored(image)
        if len(image.alive) < image.tokens:
            alive[image.row, image.place_N] = False
            alive[image.row, image.place_N[image.alive]] = True
    return Prompt(images, real, visual, asks, loose, last, alive)
