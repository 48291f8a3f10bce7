"""Options that several commands take, said once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(metavar="DIR", help="A folder, a hub id, or 'tiny', the model that comes with the package.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the method; may be repeated.")
]
PlanFile = Annotated[Path | None, typer.Option(metavar="FILE.json", help="A plan file instead of a method.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help="auto, float32, bfloat16 or float16.")]
Longest = Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer, in tokens.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Decides all that is drawn by lot.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
