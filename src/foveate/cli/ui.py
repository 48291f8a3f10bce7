"""`foveate ui`: a page in the browser, on this machine alone unless it is told otherwise."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli import app, show
from foveate.cli.options import Device, Dtype, Model
from foveate.errors import FoveateError

_EXAMPLES = """
[bold]Examples[/bold]

  foveate ui

  foveate ui --model Qwen/Qwen2.5-VL-7B-Instruct --port 7861

Pictures that are dropped in stay in a temporary folder, which is removed at the end. Ctrl-C ends it.
Needs Gradio: foveate doctor.
"""


@app.command(epilog=_EXAMPLES)
def ui(
    model: Model = "tiny",
    host: Annotated[
        str, typer.Option(metavar="NAME", help="The address to listen at. Others than this reach you from outside.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="The port.")] = 7860,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """A page to play on: what methods keep and answer, accuracy against budget, a plan for your own examples."""
    with tempfile.TemporaryDirectory(prefix="foveate-ui-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when Gradio is imported
        from foveate.engines import hf
        from foveate.ui import page

        gradio = page.load_gradio()
        hf.check_device(device)
        hf.check_dtype(dtype)
        hf.look(model)
        engine = show.load(model, device, dtype)
        built = page.build(engine, Path(folder))
        built.queue(default_concurrency_limit=1)  # one model, one question at a time
        typer.echo(f"foveate: http://{host}:{port} (Ctrl-C ends it)", err=True)
        try:
            try:
                built.launch(server_name=host, server_port=port, prevent_thread_lock=True, **page.options(gradio))
            except (OSError, ValueError) as e:  # Gradio's own, of a port that is taken and a page it cannot reach
                raise FoveateError(
                    f"the page does not open at http://{host}:{port} ({e}); give another --port, and see that no proxy "
                    "stands before this address (NO_PROXY)"
                ) from None
            built.block_thread()
        finally:
            built.close(verbose=False)
