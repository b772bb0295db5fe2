"""The book with stand-ins for its executed notebooks, built once for the tests of its pages; or one that is there."""

import functools
import itertools
import os
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from report import axes, density_map, grid, look, show, strips
from report.notebooks import ROOT, build_book, toc_files

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="80"><rect width="80" height="60" fill="#0072b2"/>'
    '<text x="10" y="76" fill="#000">x</text></svg>'
)
TOKENS = ["wrong", " right", strips.END]
STRIP = strips.card(
    strips.dialogue({"role": "prompt", "content": "name three fruits."}),
    strips.values("rewards", TOKENS, [-1.0, 0.5, 1.0]),
    strips.values("advantages", TOKENS, [-2.0, -1.0, 0.0]),
).data
ANSWER = strips.card(  # a card of several methods
    *(
        strips.of(
            name,
            strips.values("rewards", TOKENS, [-x, 0.5, x]),
            strips.values("advantages", TOKENS, [-2 * x, -x, 0.0]),
            strips.masked("mask", TOKENS, [True, False, x > 1], [-1, 1, -1]),
        )
        for name, x in {"Bandit (sequence)": 1.0, "TLCR": 3.0}.items()
    ),
    strips.values("edit labels", TOKENS, [-1.0, 0.0, 0.0]),
    strips.values("true credit", TOKENS, [-1.0, 1.0, 0.2]),
).data
TABLE = grid.table(pd.DataFrame({f"method {i} (credit)": ["bandit", "3.70 ± 0.12"] for i in range(12)}))
LEAD = {
    "oracle-dense": 1.0,
    "token": -2.0,
    "segment": 0.05,
    "bandit": 0.0,
}  # credit, where an item too many has no price
RUNS = itertools.product(LEAD, density_map.GRID, (0, 1))
CELLS = [(method, *cell, seed, LEAD[method] * (1 - cell[-1])) for method, cell, seed in RUNS]
MAP = axes.chooser(pd.DataFrame(CELLS, columns=["method", *density_map.AXES, "seed", "value"]))


def drawing() -> str:
    """A figure as `show.figure` puts it on the page."""
    figure, axes = look.canvas()
    axes[0, 0].plot([1, 2], **look.style("bandit"))
    return f'<figure class="plate">{look.drawing(figure, "A line that rises.")}<figcaption>x</figcaption></figure>'


@functools.cache
def picture() -> str:
    """What `show.preview` leaves in a notebook."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "display", lambda bundle, **kwargs: made.append(bundle[show.PREVIEW]))
        show.preview(look.canvas()[0])
    return made[0]


def stand_in(page: str) -> nbformat.NotebookNode:
    """A notebook as a run leaves it: the committed cells where there are any, and outputs of every kind we show."""
    source = ROOT / f"{page}.ipynb"
    cells = nbformat.read(source, as_version=4).cells if source.exists() else [new_markdown_cell(f"# {page}")]
    outputs = [new_output("display_data", {"image/svg+xml": SVG})]
    outputs += [new_output("display_data", {"text/html": html}) for html in (STRIP, TABLE, drawing(), MAP, ANSWER)]
    if page == "notebooks/density_map":
        metadata = {"scrapbook": {"name": "preview", "mime_prefix": show.HIDDEN}}
        outputs.append(new_output("display_data", {show.PREVIEW: picture()}, metadata=metadata))
    prose = "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    for key in sorted(set(re.findall(rf"{re.escape(page)}\.ipynb::([\w.-]+)", prose))):  # numbers that prose quotes
        metadata = {"scrapbook": {"name": key, "mime_prefix": show.HIDDEN}}
        outputs.append(new_output("display_data", {f"{show.HIDDEN}text/plain": "0.5"}, metadata=metadata))
    shown = rf"{{glue}} ([\w.-]+)\n:doc: \S*{re.escape(page)}\.ipynb"
    for key in sorted(set(re.findall(shown, prose))):  # figures and tables of this page on others
        metadata = {"scrapbook": {"name": key, "mime_prefix": ""}}
        outputs.append(new_output("display_data", {"text/html": TABLE}, metadata=metadata))
    cells.append(new_code_cell("draw()", outputs=outputs, execution_count=1))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


BOOK = os.environ.get("BOOK")  # BOOK=_build/html pytest -m browser ...: its executed pages, in place of stand-ins


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The book in BOOK, or the prose and settings with stand-ins for the notebooks, built as `make book` builds."""
    if BOOK:
        return ROOT / BOOK
    folder = tmp_path_factory.mktemp("book")
    executed = []
    for page in toc_files(ROOT / "_toc.yml"):
        if page.startswith("notebooks/"):
            executed.append(folder / f"{Path(page).name}.ipynb")
            nbformat.write(stand_in(page), executed[-1])
    return build_book(ROOT, executed, folder)
