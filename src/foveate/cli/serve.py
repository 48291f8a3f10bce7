"""`foveate serve`: a stock vLLM with a plan."""

import json
import os
from typing import Annotated, Any

import typer

from foveate.cli import app, choose
from foveate.cli.options import PlanFile, Settings
from foveate.errors import FoveateError

_EXAMPLES = """
[bold]Examples[/bold]

  foveate serve llava-hf/llava-1.5-7b-hf --method divprune --keep 0.222

  foveate serve ./qwen --plan plan.json --port 8001 --tensor-parallel-size 2

  foveate serve ./qwen --image-tokens 256 --request-tokens 1024

Needs vLLM 0.32 or 0.33. What a request may ask for, and the OpenAI client: docs/serving.md.
"""


@app.command(epilog=_EXAMPLES, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or 'tiny'.")],
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to choose: see 'foveate list'. Default: divprune.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help=f"Visual tokens that stay: a fraction or a count. Default: {choose.DEFAULT_KEEP}."
        ),
    ] = None,
    setting: Settings = None,
    plan: PlanFile = None,
    image_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="The most tokens that an image may keep.")
    ] = None,
    request_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="The most tokens that all images of a request may keep together.")
    ] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Requests may not ask for a method, a plan or a budget of their own.")
    ] = False,
) -> None:
    """Serve a model with vLLM, with fewer image tokens. Other options are vLLM's own and are passed on.

    With --image-tokens or --request-tokens alone, images within the limit stay whole.
    """
    from foveate.engines.loading import look
    from foveate.engines.vllm import launch, settings
    from foveate.servable import check_servable

    asked: dict[str, Any] = {}
    if plan:
        if method or keep or setting:
            raise FoveateError("--plan already says how to choose; leave out --method, --keep and --set")
        asked = json.loads(choose.read_plan(plan).to_json())
    elif method or keep or setting or not (image_tokens or request_tokens):
        name = method or settings.DEFAULT
        asked = {
            "method": name,
            "keep": choose.keep_value(keep or choose.DEFAULT_KEEP),
            **choose.settings(setting or []),
        }
    budgets = {"image_tokens": image_tokens, "request_tokens": request_tokens}
    asked |= {name: value for name, value in budgets.items() if value is not None}
    facts = look(model)
    # Said in a second here, what vLLM would say after a minute.
    wish = settings.read(asked, facts.depth, ours=True)
    if wish.plan:
        check_servable(wish.plan)
    extra = list(context.args)
    words = launch.command(os.fspath(facts.source), asked, extra, fixed)
    # Where vLLM itself looks for it.
    key = launch.option(extra, "--api-key", os.environ.get("VLLM_API_KEY", ""))
    raise typer.Exit(launch.run(words, launch.address(extra), fixed, typer.echo, key))
