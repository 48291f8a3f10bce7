"""Pictures of the documentation: what methods keep of scenes that the embedded model never saw.

python benchmarks/method_pictures.py [--scene 7] [--docs docs/methods]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from PIL import Image

from foveate import tiny, viz
from foveate.hf.attach import attach
from foveate.methods import METHODS
from foveate.ops.knee import knee
from foveate.plan import Plan
from foveate.selection import Block
from foveate.tiny.checkpoint import load_joint
from foveate.tiny.inputs import PROMPT
from foveate.tiny.look import look
from foveate.tiny.vocabulary import GRID, TIERS

SIZE = 210
WHOLE = (Block(0, GRID, GRID),)


def kept_panel(picture: Image.Image, kept: tuple[int, ...], title: str) -> viz.Panel:
    dimmed = viz.dim(picture, viz.place(picture, WHOLE), kept, SIZE)
    return viz.Panel(dimmed, title, f"{len(kept)} of {GRID * GRID}")


def run(model: Any, processor: Any, scene: Any, plan: Plan, question: int = 0) -> tuple[str, Any]:
    """The answer, and what each cut left."""
    asked = scene.questions[question]
    inputs = processor(text=[PROMPT.format(question=asked.text)], images=[scene.image], return_tensors="pt")
    with torch.inference_mode(), attach(model, plan) as attached:
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        report = attached.report
    new = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip(), report


def row(model: Any, processor: Any, scene: Any, plan: Plan, words: list[str]) -> list[viz.Panel]:
    """The picture with a question, then what each cut leaves; `words` name the cuts."""
    said, report = run(model, processor, scene, plan)
    asked = scene.questions[0]
    cuts = report.images[0].cuts
    panels = [viz.Panel(viz.fit(scene.image, SIZE), asked.text, f"right: {asked.answer}; with the last: {said}")]
    return panels + [kept_panel(scene.image, c.kept, w) for c, w in zip(cuts, words, strict=True)]


def tops_sheet(model: Any, processor: Any, scene: Any) -> Image.Image:
    weights = {"relevance alone": (1, 0, 0), "diversity alone": (0, 1, 0), "coverage alone": (0, 0, 1)}
    weights |= {"all three": (1, 0.5, 0.5)}
    top = []
    for title, (beta, alpha, lam) in weights.items():
        plan = METHODS["tops"](64, stages=1, beta=beta, alpha=alpha, lam=lam, transform="rank", normalise="minmax")
        _, report = run(model, processor, scene, plan)
        top.append(kept_panel(scene.image, report.images[0].cuts[0].kept, title))
    plan = METHODS["tops"](1 / 9, depth=10, transform="rank", normalise="minmax")
    return viz.sheet([top, row(model, processor, scene, plan, ["before the LLM", "before layer 3", "before layer 7"])])


def sms_sheet(model: Any, processor: Any, scenes: list[Any]) -> Image.Image:
    plan = METHODS["sms"](0.9, c=32.0, image=0.75, text=0.75)
    words = ["stage 1", "before layer 3", "before layer 7"]
    return viz.sheet([row(model, processor, s, plan, words) for s in scenes])


def ground_sheet(model: Any, processor: Any, number: int) -> Image.Image:
    """One cluttered layout on a plain ground and on a textured one: saliency and diversity at 22.2 %."""
    rows = []
    for tier in ("cluttered", "textured"):
        scene = tiny.world.scene("val", number, tier=tier)
        panels = [viz.Panel(viz.fit(scene.image, SIZE), tier, f"{len(scene.layout.things)} things")]
        for name in ("fastervlm", "divprune"):
            _, report = run(model, processor, scene, METHODS[name](2 / 9))
            panels.append(kept_panel(scene.image, report.images[0].cuts[0].kept, name))
        rows.append(panels)
    return viz.sheet(rows)


def curves(model: Any, scenes: list[Any], c: float = 32.0) -> Any:
    """The sorted [CLS] attention of each scene, with its knee."""
    figure, axes = plt.subplots(figsize=(6, 3))
    seen = look(model, load_joint(model), scenes)
    for scene, score, head in zip(scenes, seen.cls, knee(seen.cls, c, 0.99).tolist(), strict=True):
        falling = score.float().sort(descending=True).values
        line = axes.semilogy(falling, linewidth=1.2, label=f"{scene.tier}: {len(scene.layout.things)} things, {head}")[
            0
        ]
        axes.plot(head - 1, falling[head - 1], "o", color=line.get_color())
    axes.set(xlabel="tokens, most attended first", ylabel="[CLS] attention")
    axes.legend(fontsize=8, title="scene, and its knee")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=int, default=7, help="test scene of the TOPS picture")
    parser.add_argument("--docs", type=Path, default=Path("docs/methods"))
    args = parser.parse_args()
    model, processor = tiny.load()
    every = [tiny.world.scene("test", i) for i in range(60)]
    scenes = [next(s for s in every if s.tier == tier) for tier in TIERS]
    viz.save(tops_sheet(model, processor, tiny.world.scene("test", args.scene)), args.docs / "tops.jpg")
    viz.save(sms_sheet(model, processor, scenes), args.docs / "sms.jpg")
    viz.save(ground_sheet(model, processor, 3), args.docs.parent / "ground.jpg")
    curves(model, scenes).savefig(args.docs / "sms-knee.png", dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()
