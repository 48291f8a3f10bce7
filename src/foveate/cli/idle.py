"""An option that nothing would read is refused: whoever gives one believes that it changes something."""

from collections.abc import Iterable

import typer

from foveate.errors import FoveateError


def refuse_idle(context: typer.Context, names: Iterable[str], where: str) -> None:
    """Refuse options that were given and have no effect.

    Args:
        context: of the command.
        names: of its parameters.
        where: with which others they have none, as one types those.

    Raises:
        FoveateError: naming the first of them.
    """
    options = {p.name: p.opts[0] for p in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise FoveateError(f"{options[name]} has no effect with {where}; leave it out")
