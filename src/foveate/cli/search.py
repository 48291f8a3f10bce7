"""`foveate search`: from a model and examples to a plan file with its evidence."""

from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import app, choose
from foveate.cli.idle import refuse_idle
from foveate.cli.options import Device, Dtype, Json, Longest, Model, Seed
from foveate.cli.searching import Common, search
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.plan import Plan
    from foveate.search.schedules import Effort, Ranking

_COMMON = """
Data is JSONL, one object a line with image, question and answer (agreement needs none), or a folder that holds one.
The search sees one half; the plan file carries what the plan does on the other.

Killed and started again, a search goes on; the same command elsewhere, with --study a database URL, shares the work.
Needs Optuna and SciPy: foveate doctor.
"""
_EXAMPLES = f"""
[bold]Examples[/bold]

  foveate search gsearch --model ./llava --data mine.jsonl --out plan.json

  foveate search psigmoid --model ./llava --data mine.jsonl --keep 0.125 --first spread --out plan.json

  foveate search auto --model ./llava --data mine.jsonl --max-loss 0.01 --out plan.json

  foveate search auto --model ./llava --data mine.jsonl --max-loss 0.01 --servable --out plan.json

  foveate run --plan plan.json --image a.jpg --prompt "..."
{_COMMON}"""

group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Search for a plan on your own examples.")
app.add_typer(group, name="search")

Data = Annotated[Path, typer.Option(metavar="FILE", help="Examples: a JSONL file, or a folder that holds one.")]
Out = Annotated[Path, typer.Option(metavar="FILE.json", help="The plan file; a plot goes beside it.")]
Metric = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="exact, vqa, agreement (with the full model; needs no answers), or likelihood (of the answer).",
    ),
]
StudyAt = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Where trials are kept: a file (.db is SQLite) or a database URL. Default: beside the plan, .study.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Processes on this machine; each loads the model.")]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Examples at a time.")]
Memory = Annotated[
    float, typer.Option(min=0, metavar="GiB", help="Memory for states of layers that plans share; 0 keeps none.")
]
Helper = Annotated[bool, typer.Option(hidden=True)]
First = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Before the first layer: full (no cut), or by own attention, cls or spread (DivPrune)."
    ),
]
Raters = Annotated[str, typer.Option(metavar="NAME", help="Whose attention ranks: last, text, dynamic or received.")]
By = Annotated[str, typer.Option(metavar="NAME", help="Of which layer: the 'own' one, or the 'previous'.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Loss allowed. Default: 0.02 nats a token; of exact and vqa 0.01 of the answers, of agreement 0.02.",
    ),
]
How = Annotated[
    str, typer.Option(metavar="NAME", help="How a layer's count is found: grid (halving), or bayes (the paper's).")
]
Stride = Annotated[int, typer.Option(min=1, metavar="N", help="Search every N-th layer; others keep what came before.")]
Whole = Annotated[
    int, typer.Option(min=1, metavar="N", help="Layers at the start that see everything; in the paper 2.")
]
MaxLoss = Annotated[
    float | None,
    typer.Option(metavar="X", help="Find the cheapest plan that loses at most this: 0.01 is a point; or nats a token."),
]
Budget = Annotated[
    float | None,
    typer.Option(metavar="X", help="Find the plan that loses least at this cost, a share of the full model's."),
]
Cost = Annotated[
    str, typer.Option(metavar="NAME", help="flops, budget (mean tokens a layer), or seconds (of prefill, measured).")
]
Trials = Annotated[int, typer.Option(min=1, metavar="N", help="Plans to try.")]
Each = Annotated[int, typer.Option(min=1, metavar="N", help="Evaluations a layer; with --how bayes.")]


def _scheduling(ctx: typer.Context) -> "tuple[Ranking, Effort]":
    """What the two searches for a schedule have in common, from their words."""
    from foveate.search.schedules import Effort, Ranking

    words = ctx.params
    return (
        Ranking(words["first"], words["raters"], words["attention"]),
        Effort(words["trials"], words["jobs"], words["seed"]),
    )


@group.command(epilog=_EXAMPLES)
def gsearch(
    ctx: typer.Context, data: Data, out: Out, model: Model = "tiny", metric: Metric = "likelihood",
    tolerance: Tolerance = None, how: How = "grid", stride: Stride = 1, whole: Whole = 1,
    first: First = "full", raters: Raters = "text", attention: By = "own", trials: Each = 12,
    study: StudyAt = None, jobs: Jobs = 1, seed: Seed = 0, batch: Batch = 16, memory: Memory = 2.0,
    device: Device = "auto", dtype: Dtype = "auto", max_new_tokens: Longest = 32, as_json: Json = False,
    helper: Helper = False,
) -> None:  # fmt: skip
    """How many tokens does each layer need? The fewest, from shallow to deep, that lose no more than the tolerance."""
    from foveate.search import promise, schedules
    from foveate.search.gsearch import searched

    if how not in ("grid", "bayes"):
        raise FoveateError(f'how is {how!r}; it must be "grid" or "bayes"')
    if how == "grid":
        refuse_idle(ctx, ("trials",), "--how grid")
    ranking, effort = _scheduling(ctx)

    def check(depth: int, examples: int) -> None:
        allowed = schedules.TOLERANCE[metric] if tolerance is None else tolerance
        if metric != "likelihood":
            promise.check_tolerance(allowed, examples)
        elif not 0 < allowed < inf:
            raise FoveateError(f"the tolerance is {allowed}; give nats a token above 0, such as 0.02")
        searched(depth, stride, first != "full", whole)
        ranking.plan([1.0] * depth)

    settings = {"tolerance": tolerance, "how": how, "stride": stride, "whole": whole, **asdict(ranking),
                "trials": trials if how == "bayes" else None}  # fmt: skip
    search("gsearch", Common.of(ctx), settings, check, lambda s: schedules.find_schedule(
        s, tolerance, how, stride, ranking, effort, whole  # type: ignore[arg-type]
    ))  # fmt: skip


@group.command(epilog=_EXAMPLES)
def psigmoid(
    ctx: typer.Context, data: Data, out: Out,
    keep: Annotated[str, typer.Option(metavar="SHARE", help="The budget: a share, mean over the layers.")],
    model: Model = "tiny", metric: Metric = "likelihood",
    unit: Annotated[str, typer.Option(metavar="NAME", help="The budget is of tokens, or of their flops.")] = "tokens",
    tune_top: Annotated[bool, typer.Option(help="Search the share of the first layers too.")] = False,
    first: First = "full", raters: Raters = "text", attention: By = "own", trials: Trials = 12,
    study: StudyAt = None, jobs: Jobs = 1, seed: Seed = 0, batch: Batch = 16, memory: Memory = 2.0,
    device: Device = "auto", dtype: Dtype = "auto", max_new_tokens: Longest = 32, as_json: Json = False,
    helper: Helper = False,
) -> None:  # fmt: skip
    """The slope at which a budget, falling over the layers along a sigmoid, loses least."""
    from foveate.methods import METHODS
    from foveate.search import schedules

    share = choose.keep_value(keep)
    if not isinstance(share, float):
        raise FoveateError(f"--keep is {share}; this search takes a share of the tokens, such as 0.125")
    if unit not in ("tokens", "flops"):
        raise FoveateError(f'unit is {unit!r}; it must be "tokens" or "flops"')
    ranking, effort = _scheduling(ctx)

    def check(depth: int, examples: int) -> None:
        METHODS["psigmoid"](share, depth=depth, **asdict(ranking))

    settings = {"keep": share, "unit": unit, "tune_top": tune_top, **asdict(ranking), "trials": trials}
    search("psigmoid", Common.of(ctx), settings, check, lambda s: schedules.find_slope(
        s, share, unit, tune_top, ranking, effort  # type: ignore[arg-type]
    ))  # fmt: skip


@group.command(epilog=_EXAMPLES)
def auto(
    ctx: typer.Context, data: Data, out: Out, model: Model = "tiny", metric: Metric = "exact",
    max_loss: MaxLoss = None, budget: Budget = None, cost: Cost = "flops",
    confidence: Annotated[float, typer.Option(metavar="X", help="Of what is promised: 0.95 errs once in 20.")] = 0.95,
    servable: Annotated[bool, typer.Option("--servable", help="Only plans that 'foveate serve' can serve.")] = False,
    trials: Trials = 60, study: StudyAt = None, jobs: Jobs = 1, seed: Seed = 0, batch: Batch = 16,
    memory: Memory = 2.0, device: Device = "auto", dtype: Dtype = "auto", max_new_tokens: Longest = 32,
    as_json: Json = False, helper: Helper = False,
) -> None:  # fmt: skip
    """The cheapest plan that loses at most so much, or the best one for a cost, over methods and their settings."""
    from foveate.search import auto as trying
    from foveate.search import promise

    if (max_loss is None) == (budget is None):
        raise FoveateError("give --max-loss or --budget: one says what is allowed, the other is then made small")
    if cost not in ("flops", "budget", "seconds"):
        raise FoveateError(f'cost is {cost!r}; it must be "flops", "budget" or "seconds"')
    if budget is not None and not 0 < budget <= 1:
        raise FoveateError(f"--budget is {budget}; it is a share of the full model's cost, in (0, 1]")
    if not 0.5 <= confidence < 1:
        raise FoveateError(f"--confidence is {confidence}; it must lie in [0.5, 1)")

    def check(depth: int, examples: int) -> None:
        if max_loss is not None and metric != "likelihood":
            promise.check_tolerance(max_loss, examples)
        elif max_loss is not None and not 0 < max_loss < inf:
            raise FoveateError(f"--max-loss is {max_loss}; give nats a token above 0")

    settings = {"cost": cost, "trials": trials} | ({"servable": True} if servable else {})

    def find(session: Any) -> "Plan":
        points = trying.explore(session, trials, jobs, cost, seed, budget, servable, max_loss)  # type: ignore[arg-type]
        return trying.choose(session, points, max_loss, budget, confidence, settings)

    search("auto", Common.of(ctx), settings, check, find)
