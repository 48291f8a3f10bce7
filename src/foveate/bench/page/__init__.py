"""The report as one HTML file that needs nothing else: no script, no network, light and dark, phone and desk."""

from importlib import resources
from typing import Any

from foveate.bench.page import cost, fronts, notes, quality
from foveate.bench.page.cases import Case, draw_cases, section
from foveate.bench.page.markup import esc

__all__ = ["Case", "build", "draw_cases"]


def build(results: dict[str, Any], cases: list[Case]) -> str:
    """The page.

    Args:
        results: what results.json holds.
        cases: examples with pictures, from `draw_cases`.
    """
    style = resources.files("foveate.bench.page").joinpath("style.css").read_text(encoding="utf-8")
    model = results["environment"]["model"]
    title = f"Foveate benchmark: {model['name']}"
    parts = [
        notes.head(results),
        quality.section(results),
        fronts.section(results),
        cost.section(results),
        section(results, cases),
        notes.foot(results),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{esc(title)}</title>\n<style>\n{style}</style>\n'
        f"</head>\n<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )
