"""`foveate run`: one question about one or more pictures, with and without pruning, measured side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli import app, choose, show
from foveate.cli.options import Device, Dtype, Json, Longest, Model, PlanFile, Settings
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.plan import Plan

_EXAMPLES = """
[bold]Examples[/bold]

  foveate run --image a.jpg --prompt "what letter is red?"

  foveate run --image a.jpg --prompt "what letter is red?" --overlay kept.png

  foveate run --image a.jpg b.jpg --prompt "..." --method divprune --keep 64

  foveate run --image a.jpg --prompt "..." --method fastv --set layer=3

  foveate run --model ./llava --image a.jpg --prompt "..." --json
"""


@app.command(epilog=_EXAMPLES)
def run(
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="The question. The chat template is added.")],
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE...",
            help="A picture: PNG, JPEG, WebP, ... of any size; - is standard input. Several make one prompt.",
        ),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="More pictures.", hidden=True)] = None,
    model: Model = "tiny",
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"How to choose: see 'foveate list'. Default: {choose.DEFAULT_METHOD}."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help=f"Visual tokens that may stay: a fraction (0.222) or a count (64). Default: {choose.DEFAULT_KEEP}.",
        ),
    ] = None,
    setting: Settings = None,
    plan: PlanFile = None,
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Draw the picture with the dropped cells dimmed, a panel a cut."),
    ] = None,
    as_json: Json = False,
    max_new_tokens: Longest = 64,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed runs of each side; times are medians.")] = 3,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer a question about pictures, with and without pruning, measured side by side."""
    from foveate import files, images, viz
    from foveate.engines import hf

    # Everything that can be wrong with the words is found here, before the seconds that a model takes to load.
    if not prompt.strip():
        raise FoveateError("the prompt is empty; ask something with --prompt")
    if not (paths := [*(image or []), *(more or [])]):
        raise FoveateError("there is no picture to ask about; name one with --image")
    hf.check_device(device)
    hf.check_dtype(dtype)
    if overlay:
        viz.check_name(overlay)
    name = choose.DEFAULT_METHOD if method is None else method
    amount = choose.DEFAULT_KEEP if keep is None else keep
    values = choose.settings(setting or [])
    chosen: Plan | None = None
    if plan is not None:
        if method is not None or keep is not None or values:
            raise FoveateError(
                "--plan already says how to choose and how much to keep; leave out --method, --keep and --set"
            )
        chosen, name = choose.read_plan(plan), plan.stem
    else:
        choose.build(name, amount, values, choose.ANY_DEPTH)
    pictures = images.load_all(paths)
    if overlay:
        files.check_spared(files.place(overlay), (p for p in paths if p != images.STDIN), "--overlay")
    facts = hf.look(model)
    chosen = chosen or choose.build(name, amount, values, facts.depth)

    engine = show.load(model, device, dtype, quiet=as_json)
    result = hf.compare(engine, pictures, prompt, chosen, max_new_tokens, repeats)
    report = result.pruned.report
    assert report is not None
    undrawn: FoveateError | None = None
    if overlay:
        title = f"{prompt}   {result.pruned.text}"
        if result.pruned.text != result.plain.text:
            title += f"   (with all tokens: {result.plain.text})"
        try:
            viz.save(viz.overlay(pictures, report, engine.processor.image_processor, title), overlay)
        except FoveateError as e:  # raised when the answer, which took longer, has been told
            undrawn, overlay = e, None

    if as_json:
        show.as_json(_data(engine, model, prompt, paths, chosen, name, result, overlay))
    else:
        _tell(engine, model, prompt, name, result, overlay)
    if undrawn:
        raise undrawn


def _tell(engine: Any, model: str, prompt: str, name: str, result: Any, overlay: Path | None) -> None:
    """For a person."""
    out, report = show.console(), result.pruned.report
    out.print(f"\n[bold]{_plain(prompt)}[/bold]\n")
    width = max(len(name), 5)
    same = "" if result.plain.text != result.pruned.text else "  [dim](the same)[/dim]"
    out.print(f"  {'plain':<{width}}  {_plain(result.plain.text)}")
    out.print(f"  {name:<{width}}  {_plain(result.pruned.text)}{same}\n")
    for line in show.cuts(report):
        out.print(f"  {line}")
    out.print(f"  {report.costs}")
    out.print(show.comparison(result, name))
    precision = str(engine.model.dtype).removeprefix("torch.")
    where = f"{model} ({engine.facts.model_type}) on {engine.model.device}, {precision}"
    runs = "one run of each" if result.repeats == 1 else f"medians of {result.repeats} interleaved runs"
    out.print(f"[dim]{where}; {runs} after a warm-up[/dim]")
    if overlay:
        out.print(f"[dim]picture: {overlay}[/dim]")


def _data(
    engine: Any, model: str, prompt: str, files: list[str], plan: "Plan", name: str, result: Any, overlay: Path | None
) -> dict[str, Any]:
    from foveate import __version__
    from foveate.plan import as_dict

    report = result.pruned.report
    return {
        "foveate": __version__,
        "model": model,
        "model_type": engine.facts.model_type,
        "device": str(engine.model.device),
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "method": name,
        "plan": as_dict(plan),
        "prompt": prompt,
        "images": files,
        "repeats": result.repeats,
        "plain": result.plain.to_dict(),
        "pruned": result.pruned.to_dict() | {"report": report.to_dict(indices=True)},
        "ratios": result.ratios(),
        "overlay": str(overlay) if overlay else None,
    }


def _plain(text: str) -> str:
    """Text that rich must not read as markup."""
    from rich.markup import escape

    return escape(text)
