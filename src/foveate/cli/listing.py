"""`foveate list`: the methods, a sentence each; the model families, and how each defines a signal."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from foveate.cli import app, show
from foveate.cli.options import Json
from foveate.errors import FoveateError

WORDS = {
    "own": "model types with a family of their own",
    "taught": "with a decoder that was taught where its tokens stand",
    "generic": "by the generic family (cuts at the input and at layers, no tower signals)",
    "no": "that cannot be cut",
}
_EXAMPLES = """
[bold]Examples[/bold]

  foveate list

  foveate list --markdown > methods.md

  foveate list --json | jq .methods.divprune
"""
FEW = 12
"""Up to so many types are named one by one."""


@app.command("list", epilog=_EXAMPLES)
def list_(
    as_json: Json = False,
    as_markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print the methods as a page of Markdown: papers, costs, who serves them."),
    ] = False,
    as_models: Annotated[
        bool,
        typer.Option(
            "--models", help="Print the model types as a page of Markdown: where each can be cut, what it refuses."
        ),
    ] = False,
) -> None:
    """List the methods (what each does and reads, where it cuts) and the model families."""
    from foveate.cli.catalogue import DEPTH, as_dict, entry, markdown, places, yes
    from foveate.cli.models import kinds_of_refusal, models, page, said
    from foveate.hf.families import FAMILIES
    from foveate.hf.plan_checks import WHY
    from foveate.methods import registry

    forms = {"--json": as_json, "--markdown": as_markdown, "--models": as_models}
    if len(asked := [name for name, given in forms.items() if given]) > 1:
        raise FoveateError(f"{' and '.join(asked)} are two ways to print; give one of them")
    if as_models:
        typer.echo(page(), nl=False)
        return
    if as_markdown:
        typer.echo(markdown(registry.names()), nl=False)
        return
    found = {n: entry(n) for n in registry.names()}
    families_of = {n: _family(n) for n in FAMILIES}
    types = models(list(found.values()))
    if as_json:
        data = {"methods": {n: as_dict(e) for n, e in found.items()}, "families": families_of}
        why = {"why": WHY}
        show.as_json(data | why | {"types": {n: asdict(m) for n, m in types.items()}})
        return
    out = show.console()
    columns = ("what it does", "kernel", "reads", "cuts", "adaptive", "merges", "asks", "vLLM")
    methods = show.table("method", *columns, title="[bold]Methods[/bold]")
    families = show.table("family", "video", "positions", "cls_attn_BN is", title="[bold]Model families[/bold]")
    for grid in (methods, families):
        grid.columns[0].no_wrap = True  # what a reader copies
        for column in grid.columns[1:]:
            column.justify = "left"
    for name, e in found.items():
        options = f"[dim]settings: {', '.join(e.settings)}[/dim]" if e.settings else ""
        about = "\n".join(filter(None, (e.about, options)))
        flags = (*(yes(x) for x in (e.adaptive, e.merges, e.asks)), e.served)
        methods.add_row(name, about, e.kernel, ", ".join(e.reads) or "-", places(e.cuts) or "-", *flags)
    for name, f in families_of.items():
        families.add_row(name, yes(f["video"]), f["positions"], f["signals"].get("cls_attn_BN", "-"))
    out.print(methods)
    out.print(
        f"[dim]Cuts: with {DEPTH} decoder layers; a number is the layer before which tokens go. Asks: what is kept "
        "depends on the question. vLLM: the plan can be served. Papers and costs: foveate list --markdown[/dim]\n"
    )
    out.print(families)
    for kind, what in WORDS.items():
        mine = [f"{n} ({m.methods})" if m.methods else n for n, m in types.items() if m.family.startswith(kind)]
        out.print(f"[bold]{len(mine)} {what}[/bold]: {', '.join(mine)}", highlight=False)
    out.print("[dim]In brackets: how many methods run on it. Reasons and faults: foveate list --models[/dim]\n")
    out.print("[bold]Refused at attach[/bold]")
    for one, names in kinds_of_refusal(types).items():
        of = ", ".join(names) if len(names) < FEW else f"{len(names)} types"
        out.print(f"  {said(one)} [dim]({of})[/dim]", highlight=False)
    out.print("[dim]Every signal as each family defines it, and the settings' defaults: foveate list --json[/dim]")


def _family(name: str) -> dict[str, Any]:
    from foveate.hf.families import FAMILIES

    f = FAMILIES[name]
    return {"video": f.video, "positions": f.positions, "signals": dict(f.signals), "note": f.note}
