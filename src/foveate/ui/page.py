"""The page itself, in Gradio. It loads nothing from elsewhere, and tells nobody anything."""

import html
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.engines import hf
from foveate.errors import FoveateError, install
from foveate.ui import looking, planning

_SHOWN = ("divprune", "tops", "sms", "psigmoid", "sts")
_STYLE = """
.gradio-container {max-width: 1200px !important; width: 100% !important; margin: 0 auto !important}
.answers {overflow-x: auto}
.answers table {width: 100%; border-collapse: collapse; border: 0 !important}
.answers :is(th, td) {text-align: left; padding: 6px !important; border: 0 !important}
@media (max-width: 480px) {.answers table {font-size: 14px} .answers :is(th, td) {padding: 6px 3px !important}}
.answers tr {border-bottom: 1px solid var(--border-color-primary)}
.answers :is(th, td):nth-child(n + 3) {text-align: right}
"""


def load_gradio() -> Any:
    """Gradio, with its telemetry off, or what to install.

    Raises:
        FoveateError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise FoveateError(f"the page needs Gradio: {install('ui')}") from None
    return gradio


def build(engine: hf.Engine, folder: Path) -> Any:
    """The page over a loaded model; what it writes goes into `folder`."""
    gr = load_gradio()
    waiting = gr.Progress()

    def said(error: FoveateError) -> Exception:
        return gr.Error(str(error), duration=None, print_exception=False)  # type: ignore[no-any-return]

    def look(picture: Any, question: str, methods: list[str], keep: float) -> Iterator[tuple[Any, Any]]:
        rows: list[list[str]] = []
        pictures: list[Any] = []
        try:
            for found in looking.look(engine, picture, question, methods, float(keep)):
                rows.append(list(found.row))
                if found.picture is not None:
                    pictures.append(found.picture)
                yield looking.table(rows), looking.stacked(pictures)
        except FoveateError as e:
            raise said(e) from None

    def tradeoff(where: str) -> str:
        try:
            inside = html.escape(planning.tradeoff(where), quote=True)
        except FoveateError as e:
            raise said(e) from None
        # As high as what is in it, once that is there.
        fit = "this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"
        return (
            f'<iframe title="charts" style="width:100%;height:80vh;border:0" onload="{fit}" srcdoc="{inside}"></iframe>'
        )

    def plan(examples: str, loss: float, trials: float, bar: Any = waiting) -> tuple[str, str]:
        done, batches, last = 0, 0, "asking with all tokens first"

        def tell() -> None:
            bar((min(done, int(trials)), int(trials)), desc=f"{last} ({batches} batches asked)", unit="plans")

        def watch(lost: float, cost: float) -> None:
            nonlocal done, last
            done, last = done + 1, f"the last plan lost {100 * lost:.1f} points at {cost:.0%} of the operations"
            tell()

        def step() -> None:
            nonlocal batches
            batches += 1
            tell()

        tell()
        try:
            told, file = planning.find(engine, examples, loss / 100, int(trials), folder, watch, step)
        except FoveateError as e:
            raise said(e) from None
        return told, str(file)

    names = looking.names(engine)
    with gr.Blocks(title="Foveate", analytics_enabled=False) as page:
        gr.Markdown(f"# Foveate\nWhat {engine.facts.model_type} needs of a picture, and what it can do without.")
        with gr.Tab("Look"):
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    picture = gr.Image(type="pil", image_mode="RGB", label="Picture", height=280)
                    question = gr.Textbox(label="Question", placeholder="what is the code on the blue plate?")
                    chosen = gr.Dropdown(
                        names, value=[n for n in _SHOWN if n in names], multiselect=True, label="Methods"
                    )
                    keep = gr.Slider(0.02, 1.0, 0.222, step=0.001, label="Share of the visual tokens that may stay")
                    ask = gr.Button("Ask", variant="primary")
                with gr.Column(scale=2, min_width=300):
                    table = gr.HTML(looking.table([]), padding=False)
                    gr.Markdown(looking.LEGEND)
                    # Without the button that would send the picture to a server far away.
                    kept = gr.Image(
                        label="What stays at each cut", show_label=False, interactive=False, type="pil",
                        buttons=["download", "fullscreen"],
                    )  # fmt: skip
            ask.click(look, [picture, question, chosen, keep], [table, kept])
        with gr.Tab("Trade-off"):
            where = gr.Textbox(label="Folder of a finished foveate bench", placeholder="out/bench")
            draw = gr.Button("Draw", variant="primary")
            charts = gr.HTML()
            draw.click(tradeoff, where, charts)
        with gr.Tab("Plan"):
            examples = gr.Textbox(
                label="Examples on this machine: a JSONL file, or a folder that holds one", placeholder="mine.jsonl"
            )
            loss = gr.Slider(0.5, 10.0, 1.0, step=0.5, label="Loss allowed, points")
            trials = gr.Slider(6, 200, 40, step=1, label="Plans to try")
            search = gr.Button("Find a plan", variant="primary")
            claim = gr.Textbox(label="What it promises", lines=3, interactive=False)
            file = gr.File(label="Plan file", height=110)
            search.click(plan, [examples, loss, trials], [claim, file], show_progress_on=[claim])
    return page


def options(gr: Any) -> dict[str, Any]:
    """What `launch` is told, but for the place: fonts of the system instead of those of a server far away."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _STYLE, "share": False, "quiet": True, "footer_links": []}
