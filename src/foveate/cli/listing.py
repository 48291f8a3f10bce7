"""`foveate list`: the methods, a sentence each; the model families, and how each defines a signal."""

from typing import Annotated, Any

import typer

from foveate.cli import app, show


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the methods as a page of Markdown.")] = False,
) -> None:
    """List the methods (what each does and reads, where it cuts) and the model families."""
    from foveate.cli.catalogue import DEPTH, as_dict, entry, markdown, places, yes
    from foveate.hf.families import FAMILIES
    from foveate.methods import registry

    if as_markdown:
        typer.echo(markdown(registry.names()), nl=False)
        return
    found = {n: entry(n) for n in registry.names()}
    families_of = {n: _family(n) for n in FAMILIES}
    if as_json:
        show.as_json({"methods": {n: as_dict(e) for n, e in found.items()}, "families": families_of})
        return
    out = show.console()
    columns = ("what it does", "kernel", "reads", "cuts", "adaptive", "merges", "asks")
    methods = show.table("method", *columns, title="[bold]Methods[/bold]")
    families = show.table("family", "video", "positions", "cls_attn_BN is", title="[bold]Model families[/bold]")
    for grid in (methods, families):
        for column in grid.columns[1:]:
            column.justify = "left"
    for name, e in found.items():
        options = f"[dim]settings: {', '.join(e.settings)}[/dim]" if e.settings else ""
        about = "\n".join(filter(None, (e.about, options)))
        flags = (yes(x) for x in (e.adaptive, e.merges, e.asks))
        methods.add_row(name, about, e.kernel, ", ".join(e.reads) or "-", places(e.cuts) or "-", *flags)
    for name, f in families_of.items():
        families.add_row(name, yes(f["video"]), f["positions"], f["signals"].get("cls_attn_BN", "-"))
    out.print(methods)
    out.print(
        f"[dim]Cuts: with {DEPTH} decoder layers; a number is the layer before which tokens go. Asks: what is kept "
        "depends on the question. Papers and costs: foveate list --markdown[/dim]\n"
    )
    out.print(families)
    out.print("[dim]Every signal as each family defines it, and the settings' defaults: foveate list --json[/dim]")


def _family(name: str) -> dict[str, Any]:
    from foveate.hf.families import FAMILIES

    f = FAMILIES[name]
    return {"video": f.video, "positions": f.positions, "signals": dict(f.signals), "note": f.note}
