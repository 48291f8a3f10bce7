"""What every search does with its words: from checked examples to a plan file, a plot and the claim on the page."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foveate.cli import show
from foveate.cli.idle import refuse_idle

if TYPE_CHECKING:
    from foveate.plan import Plan


@dataclass(frozen=True)
class Common:
    """What all three commands take."""

    model: str
    data: Path
    out: Path
    metric: str
    study: str | None
    jobs: int
    seed: int
    batch: int
    memory: float
    device: str
    dtype: str
    max_new_tokens: int
    as_json: bool
    helper: bool

    @classmethod
    def of(cls, ctx: typer.Context) -> "Common":
        """From the words of whichever command.

        Raises:
            FoveateError: one of them has no effect.
        """
        if ctx.params["metric"] == "likelihood":
            refuse_idle(ctx, ("max_new_tokens",), "--metric likelihood, which has the data's own answers forced")
        return cls(**{f.name: ctx.params[f.name] for f in fields(cls)})


def search(
    name: str,
    common: Common,
    settings: dict[str, Any],
    check: Callable[[int, int], None],
    find: "Callable[[Any], Plan]",
) -> None:
    """Check every word, load the model, search, write.

    Args:
        name: of the search.
        common: what all searches are told.
        settings: its own, by which its study is known.
        check: (decoder layers, examples of the half that is searched on): refuses what cannot be, before loading.
        find: (the session) -> the plan, with its evidence.
    """
    from foveate import data, files
    from foveate.engines import hf
    from foveate.errors import FoveateError
    from foveate.search import outcome, plot
    from foveate.search.halves import split
    from foveate.search.helpers import helpers
    from foveate.search.promise import load_scipy
    from foveate.search.session import Session
    from foveate.search.study import Study

    load_scipy()  # what is only needed at the end should be missed at the beginning
    outcome.check_metric(common.metric)
    hf.check_device(common.device)
    hf.check_dtype(common.dtype)
    out = files.check_target(common.out)
    examples = data.load(common.data, labelled=outcome.needs_answers(common.metric))
    source = files.place(common.data)
    files.check_spared(out, (source, *source.glob("*.jsonl")), "--out")
    files.check_spared(
        out.with_suffix(".png"),
        (p for e in examples for p in e.images if isinstance(p, Path)),
        "the plot beside --out:",
    )
    halves = split(examples, common.seed)
    facts = hf.look(common.model)
    check(facts.depth, len(halves.search))
    where = common.study or str(out.with_suffix(".study"))
    if len({out, out.with_suffix(".png"), Path(where)}) < 3:
        raise FoveateError(f"--out {out} is where the plot or the study goes too; end it with .json")
    all_settings = settings | {
        "search": name, "metric": common.metric, "seed": common.seed, "width": common.jobs, "model": common.model,
        "dtype": common.dtype, "max_new_tokens": common.max_new_tokens, "data": data.fingerprint(examples),
        "weights": hf.fingerprint(Path(facts.source)),
    }  # fmt: skip
    study = Study(where, f"foveate {name}", all_settings)

    with helpers(0 if common.helper else common.jobs - 1):
        quiet = common.as_json or common.helper
        engine = show.load(common.model, common.device, common.dtype, quiet)
        with show.searching(quiet, name) as (step, watch):
            session = Session(engine, halves, common.metric, study, common.batch, common.memory,
                              common.max_new_tokens, step, watch)  # fmt: skip
            plan = find(session)
    if common.helper:
        return
    known = study.known()
    tried = [(r["flops"], r["loss"]) for key, r in known.items() if key.startswith("search: {")]
    files.write(out, (plan.to_json() + "\n").encode())
    picture = plot.draw(plan, facts.depth, tried, common.metric, out.with_suffix(".png"))
    made = dict(plan.made or {})
    if common.as_json:
        show.as_json({"plan": str(out), "plot": str(picture) if picture else None, "study": where,
                      "evaluated": len(known), "made": made})  # fmt: skip
        return
    page = show.console()
    page.print(f"\n{made['claim']}")
    page.print(f"Visual tokens: {made['budget']:.1%} of all, mean over the layers; {made['visual_flops']:.1%} of their "
               "operations.")  # fmt: skip
    if made.get("asked", {}).get("proven") is False:
        page.print("[bold]Not proven[/bold]: the held-out half is too small, or too near the limit, to show that the "
                   "loss stays within --max-loss.")  # fmt: skip
    if nearest := made.get("asked", {}).get("nearest"):
        above = made["asked"].get("nearest_above")
        page.print(f"[bold]Far from what was asked[/bold]: no plan tried came nearer to --budget from below than "
                   f"{nearest}" + (f"; from above {above}" if above else "") + ". Raise --trials.")  # fmt: skip
    keeps = plot.schedule_of(plan, facts.depth)
    page.print("Layers: " + " ".join(f"{k:.3g}" if isinstance(k, float) else str(k) for k in keeps))
    page.print(f"[dim]plan: {out}   study: {where}" + (f"   plot: {picture}" if picture else "") + "[/dim]")
