"""`foveate bench`: methods against the full model and the plain baselines, in quality and in cost; or two results."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import app, choose, show
from foveate.cli.idle import refuse_idle
from foveate.cli.options import Device, Dtype, Json, Model, Seed
from foveate.cli.progress import progress
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.plan import Plan

_EXAMPLES = """
[bold]Examples[/bold]

  foveate bench --out out/bench --limit 100

  foveate bench --model ./llava --method divprune,fastv --keep 0.333,0.222,0.111 --task mine.jsonl --out out/mine

  foveate bench --method tops,plan.json --set tops.transform=none --task tiny:crowded --out out/crowded

  foveate bench --compare out/mine out/other

Run the same again to go on where it stopped; more methods, keeps or tasks are added. Needs SciPy: foveate doctor.
"""
_METHODS, _KEEPS, _TASKS = "fastervlm,divprune,fastv", "0.333,0.222,0.111", "tiny"
_COST = ("batch_sizes", "lengths", "repeats")
_HERE = ("baseline", "batch_size", "cost", *_COST, "device", "dtype")
_SERVER = ("concurrency", "pairs", "per_round", "vllm")


@app.command(epilog=_EXAMPLES)
def bench(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where answers, figures and report.html go. Required, but for --compare."),
    ] = None,
    model: Model = "tiny",
    method: Annotated[
        str, typer.Option(metavar="A,B", help="Methods ('foveate list') and plan files; baselines are always added.")
    ] = _METHODS,
    keep: Annotated[
        str, typer.Option(metavar="A,B", help="Visual tokens that may stay: fractions (0.222) or counts (64).")
    ] = _KEEPS,
    task: Annotated[
        str, typer.Option(metavar="A,B", help="tiny, tiny:TIER, a JSONL file or its folder, lmms:NAME.")
    ] = _TASKS,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the first N examples of each task. Default: all; of tiny, 500."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A parameter of one method; may be repeated."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(metavar="NAME", help="What methods are compared with, beside the full model.")
    ] = "random",
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Examples at a time; figures do not depend on it.")
    ] = 8,
    seed: Seed = 0,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Whether to measure time and memory.")] = True,
    batch_sizes: Annotated[str, typer.Option(metavar="N,N", help="Prompts at a time in the cost pass.")] = "1",
    lengths: Annotated[str, typer.Option(metavar="N,N", help="Answer lengths in the cost pass, in tokens.")] = "8",
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed turns of each cell of the cost pass.")] = 3,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="The longest answer in tokens, where a task leaves it open.")
    ] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="hf, or vllm: a server under load, pruned and not.")
    ] = "hf",
    concurrency: Annotated[str, typer.Option(metavar="N,N", help="vllm: clients at once.")] = "1,4,16",
    pairs: Annotated[int, typer.Option(min=1, metavar="N", help="vllm: rounds of each.")] = 7,
    per_round: Annotated[int, typer.Option(min=1, metavar="N", help="vllm: questions in a round.")] = 12,
    vllm: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="Passed on to both servers: --vllm=--dtype=float32."),
    ] = None,
    compare: Annotated[
        tuple[str, str], typer.Option(metavar="A B", help="Set two finished benchmarks side by side instead.")
    ] = ("", ""),
    as_json: Json = False,
) -> None:
    """Measure methods against the full model and plain baselines: quality with intervals and tests, cost in parts.

    Quality first, shown as it grows; then a small cost pass: --batch-sizes, --lengths and --repeats make it larger.
    """
    from foveate.bench import statistics

    if engine != "vllm":
        statistics.needs_scipy()
    if any(compare):
        # How few examples were asked is in the results: `--limit` promises nothing here.
        refuse_idle(ctx, ctx.params.keys() - {"compare", "as_json", "limit"}, "--compare")
        _compare(Path(compare[0]), Path(compare[1]), as_json)
        return
    if out is None:
        raise FoveateError("there is no folder for the results; name one with --out")
    if engine not in ("hf", "vllm"):
        raise FoveateError(f"--engine is {engine!r}; it is hf or vllm")
    refuse_idle(ctx, _HERE if engine == "vllm" else _SERVER, f"--engine {engine}")
    if not cost:
        refuse_idle(ctx, _COST, "--no-cost")
    from foveate.bench import run, session, tasks
    from foveate.bench.ways import line_up
    from foveate.cli import tables
    from foveate.engines import hf

    hf.check_device(device)
    hf.check_dtype(dtype)
    names, values = choose.words("--method", method), choose.settings_by_method(setting or [])
    plans = [Path(n) for n in names if n.endswith(".json")]
    names = [n for n in names if not n.endswith(".json")]
    sizes, answers = (choose.numbers(n, text) for n, text in (("--batch-sizes", batch_sizes), ("--lengths", lengths)))

    def ways(depth: int) -> list[Any]:
        def build(name: str, amount: str) -> "Plan":
            return choose.build(name, amount, _mine(values, name, seed), depth)

        return line_up(names, choose.words("--keep", keep), build) + _plan_files(plans)

    ways(choose.ANY_DEPTH)
    if strange := values.keys() - {*names, "random"}:
        raise FoveateError(f"--set {min(strange)}.… sets up a method that is not in --method")
    if engine == "vllm":
        from foveate.cli.load import load

        clients = choose.numbers("--concurrency", concurrency)
        limit = limit or per_round * (pairs + 1) * len(clients)
    wanted = [
        t for name in choose.words("--task", task) for t in tasks.load(name, limit, max_new_tokens=max_new_tokens)
    ]
    facts = hf.look(model)
    if engine == "vllm":
        if len(wanted) > 1:
            raise FoveateError(f"--engine vllm asks the questions of one task; --task names {len(wanted)}")
        mine = [w for w in ways(facts.depth) if w.method in names or w.keep == "plan"]
        if wrong := next((w for w in mine if w.plan is None), None):
            raise FoveateError(f"{wrong.id} has no plan for a server: {wrong.why or 'it drops no tokens'}")
        plans_of = {w.id: w.plan for w in mine if w.plan}
        load(model, plans_of, wanted[0].examples, out, clients, pairs, per_round, max_new_tokens, vllm or [], as_json)
        return
    run.open_folder(out)
    request = session.Request(
        model, wanted, ways(facts.depth), out, baseline, batch_size, seed, sizes if cost else (), answers, repeats,
        device, dtype,
    )  # fmt: skip
    show.loading(model, as_json)
    with progress(as_json) as bar:
        results = session.bench(request, bar, lambda quality: bar.say(*tables.quality(quality, baseline)))
    if as_json:
        show.as_json({k: v for k, v in results.items() if k != "samples"} | {"out": os.fspath(out)})
        return
    page = show.console()
    for part in (*tables.quality(results["quality"], baseline), *tables.costs(results["cost"])):
        page.print(part)
    page.print(f"\nReport:  {out / run.PAGE}\nNumbers: {out / run.RESULTS}")


def _compare(a: Path, b: Path, as_json: bool) -> None:
    from foveate.bench import compare
    from foveate.cli import tables

    found = compare.compare(a, b)
    if as_json:
        show.as_json(found)
        return
    page = show.console()
    for part in tables.comparison(found):
        page.print(part)


def _mine(values: Mapping[str, Mapping[str, Any]], name: str, seed: int) -> dict[str, Any]:
    """The settings of one method; methods that draw get the seed."""
    drawn = {"seed": seed} if "seed" in choose.parameters(name) else {}
    return drawn | dict(values.get(name, {}))


def _plan_files(paths: Sequence[Path]) -> list[Any]:
    from foveate.bench.ways import Way, check_once

    check_once("--method", [path.stem for path in paths], "rename one of the plan files")
    return [Way(path.stem, "plan", "plan", choose.read_plan(path)) for path in paths]
