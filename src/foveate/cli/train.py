"""`foveate train sts | oneshot`: a learned selector for a model, from questions with answers."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import app, show
from foveate.cli.idle import refuse_idle
from foveate.cli.options import Json, Model, Seed
from foveate.cli.progress import progress
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.pointer.config import OneShotConfig, PointerConfig

_EXAMPLES = """
[bold]Examples[/bold]

  foveate train sts --model ./llava --data train.jsonl --budget 0.111 --out runs/sts-111

  foveate train sts --recipe published --felt --spread 0.02 0.4 --data train.jsonl --out runs/published

  foveate train sts --model ./llava --data train.jsonl --spread 0.05 0.33 --out runs/sts-many

  foveate train sts --model ./llava --data train.jsonl --text --spread 0.05 0.33 --out runs/sts-reads

  foveate train oneshot --model ./llava --data train.jsonl --budget 0.111 --out runs/oneshot-111

  accelerate launch --num_processes 8 -m foveate.cli train sts --data train.jsonl --out runs/sts-111

  foveate run --image a.jpg --prompt "..." --method sts --keep 0.28 --set path=runs/sts-111/selector

Killed or stopped with Ctrl-C, the same command again goes on where it stopped.
One JSON object a line of the data: image, question, answer. Needs accelerate: foveate doctor.
"""


class Recipes(StrEnum):
    """Which stepwise selector."""

    coverage = "coverage"
    published = "published"


class Kind(StrEnum):
    """What to train."""

    sts = "sts"
    oneshot = "oneshot"


@app.command(epilog=_EXAMPLES)
def train(
    ctx: typer.Context,
    selector: Annotated[Kind, typer.Argument(help="sts: picks step by step and stops; oneshot: scores once.")],
    data: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Questions with answers; a part is held out.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets selector/ (what --set path= takes), curves, states and figures.")
    ],
    model: Model = "tiny",
    budget: Annotated[
        float, typer.Option(metavar="SHARE", help="Visual tokens to keep on average, in (0, 1].")
    ] = 0.111,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Updates of the selector's weights.")] = 300,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Examples a micro-batch, on each process.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, metavar="N", help="Micro-batches an update.")] = 1,
    rate: Annotated[
        float | None, typer.Option(metavar="X", help="Learning rate. Default: 0.001; of --recipe published, 0.0005.")
    ] = None,
    group: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens picked at a step (sts).")] = 1,
    recipe: Annotated[
        Recipes,
        typer.Option(help="Of sts. coverage: before the LLM. published: before the projector; reads text."),
    ] = Recipes.coverage,
    spread: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="One selector for budgets from LOW to HIGH; published: for lambdas."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Read the question too.")] = False,
    felt: Annotated[
        bool,
        typer.Option(
            "--felt", help="Of published: answers pull at the count too, which kept its stop from collapsing."
        ),
    ] = False,
    teach: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Updates before all others that teach it what the model looks at (sts --text)."
        ),
    ] = 2000,
    save_every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Updates between states on disk; Ctrl-C saves one too.")
    ] = 50,
    seed: Seed = 0,
    precision: Annotated[str, typer.Option(metavar="NAME", help="Mixed precision: no, bf16 or fp16.")] = "no",
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, ...; under accelerate launch: auto.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="Of the frozen model: auto, float32, bfloat16 or float16.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Train a selector in front of a frozen model, calibrate it, and measure it on held-out questions."""
    from foveate import data as sets
    from foveate import files
    from foveate.engines import hf
    from foveate.pointer.config import OneShotConfig, PointerConfig
    from foveate.pointer.stepwise import StepwiseConfig
    from foveate.pointer.train import Recipe
    from foveate.pointer.train.fit import fit
    from foveate.pointer.train.parts import split

    if precision not in (known := ("no", "bf16", "fp16")):
        raise FoveateError(f"--precision is {precision!r}; it must be one of {', '.join(known)}")
    published = recipe is Recipes.published
    if selector is Kind.oneshot:
        if published or spread:
            raise FoveateError("--recipe published and --spread are of sts; a one-shot scorer keeps what it is asked")
        refuse_idle(ctx, ("group", "teach"), "oneshot, which takes no steps")
    if published:
        refuse_idle(ctx, ("text", "teach"), "--recipe published, which reads the question in any case")
    else:
        refuse_idle(ctx, ("felt",), "any recipe but published")
        if not text:
            refuse_idle(ctx, ("teach",), "a selector that does not read the question; add --text")
    before = teach if text and selector is Kind.sts else 0
    more: dict[str, Any] = {"steps": steps, "batch": batch, "accumulate": accumulate, "seed": seed}
    more |= {"save_every": save_every, "teach": before, "felt": felt}
    if rate is not None:
        more["rate"] = rate
    if spread:
        more["spread"] = spread
    how = Recipe.published(**more) if published else Recipe(**more)

    def config(features: int, words: int) -> "PointerConfig | OneShotConfig | StepwiseConfig":
        if selector is Kind.oneshot:
            return OneShotConfig(features, budget, text)
        if published:
            heads = next(h for h in (16, 12, 8, 6, 4, 3, 2, 1) if features % h == 0)
            return StepwiseConfig(features, words, budget, heads=heads, group=group)
        return (PointerConfig.reading if text else PointerConfig)(features, budget, group=group)

    config(1, 1)  # so that a wrong budget is found before the model is loaded
    if hf.check_device(device).type == "cpu" and precision == "fp16":
        raise FoveateError("--precision fp16 needs a GPU; on a CPU give bf16 or no")
    hf.check_dtype(dtype)
    examples = sets.load(data, labelled=True)
    split(examples)
    hf.look(model)
    out = files.folder(out)
    # One of the processes of a launcher speaks for all.
    speaks = os.environ.get("RANK", "0") == "0"
    engine = show.load(model, _place(device), dtype, quiet=as_json or not speaks)
    with progress(as_json or not speaks) as bar:
        result = fit(
            engine,
            examples,
            config,
            how,
            out,
            precision,
            lambda n: bar(f"training {selector.value}", n, before + steps),
        )
    if as_json and speaks:
        show.as_json({"out": str(out), **result})
    elif speaks:
        _print(result, out)


def _place(device: str) -> str:
    """Under accelerate's launcher each process has a device of its own."""
    local = os.environ.get("LOCAL_RANK")
    if device != "auto" or local is None:
        return device
    import torch

    return f"cuda:{local}" if torch.cuda.is_available() else "cpu"


def _print(result: dict[str, Any], out: Path) -> None:
    page = show.console()
    count = result["kept_count"]
    page.print(f"\n[bold]{result['questions']} held-out questions[/bold]\n")
    page.print(f"  all tokens   {100 * result['accuracy_full']:.1f}% right, {count['of']:.0f} tokens")
    page.print(
        f"  selected     {100 * result['accuracy']:.1f}% right, {count['mean']:.1f} tokens "
        f"({100 * result['kept']:.1f}%; asked for {100 * result['budget']:.1f}%)"
    )
    page.print(f"\nSelector: {out / 'selector'}\nCurves:   {out / 'curves.json'}")
