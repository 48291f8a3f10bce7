"""`foveate list`: the methods, a sentence each; the model families, and how each defines a signal."""

import inspect
from typing import Annotated, Any

import typer

from foveate.cli import app, choose, show
from foveate.errors import FoveateError

_DEPTH = 32
"""Decoder layers of the usual 7B model, for methods whose cuts depend on it."""


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the methods (what each does and reads, where it cuts) and the model families."""
    from foveate.hf.families import FAMILIES
    from foveate.methods import registry

    data = {"methods": {n: _method(n) for n in registry.names()}, "families": {n: _family(n) for n in FAMILIES}}
    if as_json:
        show.as_json(data)
        return
    out = show.console()
    methods = show.table("method", "what it does", "reads", "cuts", title="[bold]Methods[/bold]")
    families = show.table("family", "video", "positions", "cls_attn_BN is", title="[bold]Model families[/bold]")
    for grid in (methods, families):
        for column in grid.columns[1:]:
            column.justify = "left"
    for name, m in data["methods"].items():
        options = f"[dim]settings: {', '.join(m['settings'])}[/dim]" if m["settings"] else ""
        methods.add_row(
            name,
            "\n".join(filter(None, (m["about"], options))),
            ", ".join(m["reads"]) or "-",
            _places(m["cuts"]) or "-",
        )
    for name, f in data["families"].items():
        families.add_row(name, "yes" if f["video"] else "no", f["positions"], f["signals"].get("cls_attn_BN", "-"))
    out.print(methods)
    out.print(f"[dim]Cuts: with {_DEPTH} decoder layers; a number is the layer before which tokens go.[/dim]\n")
    out.print(families)
    out.print("[dim]Every signal as each family defines it, and the settings' defaults: foveate list --json[/dim]")


def _method(name: str) -> dict[str, Any]:
    from foveate.methods import registry

    about = (inspect.getdoc(registry.find(name)) or "").splitlines()
    settings = {
        p.name: None if p.default is inspect.Parameter.empty else p.default
        for p in choose.parameters(name).values()
        if p.name not in ("keep", "depth")
    }
    entry: dict[str, Any] = {
        "about": about[0] if about else "",
        "engines": ["hf"],
        "settings": {k: v if isinstance(v, int | float | str | None) else repr(v) for k, v in settings.items()},
    }
    try:
        plan = choose.build(name, "0.25", {}, _DEPTH)
    except FoveateError as e:  # a method that cannot be built without a setting is still listed
        return entry | {"reads": [], "cuts": [], "needs": str(e)}
    return entry | {"reads": sorted(plan.reads), "cuts": [c.at for c in plan.cuts]}


def _places(cuts: list[int | float | str]) -> str:
    """Where a plan cuts; a cut at every layer as a range."""
    first = cuts[0] if cuts else None
    if isinstance(first, int) and len(cuts) > 2 and cuts == list(range(first, first + len(cuts))):
        return f"{first}-{cuts[-1]}"
    return ", ".join(map(str, cuts))


def _family(name: str) -> dict[str, Any]:
    from foveate.hf.families import FAMILIES

    f = FAMILIES[name]
    return {"video": f.video, "positions": f.positions, "signals": dict(f.signals), "note": f.note}
