"""What notebooks put on the page: figures, tables, notes, numbers that prose quotes.

A figure is SVG with a description for readers who cannot see it, a caption, and its numbers to download, all in one
HTML element, so that other pages can show it by its key. Left out: widgets, and files beside the notebook."""

import base64
import html
import io
import re

import pandas as pd
from IPython.display import HTML, Markdown, display

from report import grid, look
from study.records import git_state, to_frame
from study.words import minus

HIDDEN = "application/papermill.record/"  # before the type of an output that a page does not show
PREVIEW = f"{HIDDEN}image/png"


def on_testbed(run, what: str) -> bool:
    """Whether the run is on the testbed; else says that this part is left out."""
    if not run.testbed:
        note(f"*Left out: {what} can be told on the testbed only, whose truth is known; this run is on real text.*")
    return run.testbed


def origin(run, *folders) -> str:
    """Whether scorers were committed or trained by this run."""
    if run.committed and all(folder.is_relative_to(run.committed) for folder in folders):
        return (
            f"Committed models of profile {run.profile.committed_models}, data/models/{run.profile.committed_models}."
        )
    return f"Trained with profile {run.profile.name}, seed {run.seed}."


def made_by(records: list[dict]) -> str:
    """The commits of records, three at most, to follow the name of their file; empty where none says."""
    commits = [record.get("provenance", {}).get("commit") for record in records]
    commits = list(dict.fromkeys(commit[:7] for commit in commits if commit))
    more = f" and {len(commits) - 3} more" if len(commits) > 3 else ""
    return f", made by commit{'s' * (len(commits) > 1)} {', '.join(commits[:3])}{more}" if commits else ""


def measured(run, *folders) -> str:
    """`origin`, of scorers that a notebook measures and does not train; says on the page that it is no evidence where
    profile smoke had to train one of them."""
    found = origin(run, *folders)
    if run.profile.name == "smoke" and found.startswith("Trained"):
        banner(
            f"Profile smoke trained a reward model here on at most {run.profile.pairs} pairs, to show that the code "
            "runs. What is measured of it says nothing about any method."
        )
    return found


def have(records: list[dict], name: str) -> bool:
    """Whether any record holds `name`, or a dotted name below it; else says that this part is left out."""
    found = any(column == name or column.startswith(f"{name}.") for column in to_frame(records).columns)
    if not found:
        note(f"*Left out: no record here holds {name}.*")
    return found


def there(found: bool, why: str, *keys: str) -> bool:
    """`found`; where it is false, says why: here once, on other pages in place of each key."""
    for key in () if found else keys:
        sentence(f"Left out: {why}", key, hidden=key != keys[0])
    return found


def banner(text: str) -> None:
    """Says on the face of the output that it is no evidence."""
    box = "background:#fff3cd;color:#3d2f00;border-left:.4rem solid #d39e00;padding:.5rem .8rem;"
    display(HTML(f'<div class="banner" style="{box}"><strong>No evidence.</strong> {html.escape(text)}</div>'))


def note(text: str) -> None:
    """A paragraph of Markdown."""
    display(Markdown(minus(text)))


def figure(drawn, alt: str, caption: str, source: str | None = "", key: str | None = None) -> None:
    """A figure with its description, caption and numbers (csv, in the page itself). `drawn` is (matplotlib figure,
    frame); `source` says where the data lie (`made_by` which commit they are of; without one they were made here; None:
    they are made up); `key` names it for `{glue:}` on other pages."""
    picture, numbers = drawn
    if source is not None and not re.search(r"commits? [0-9a-f]{7}", source):
        here = git_state()
        source += f" Made at commit {here['commit'][:7]}{', with uncommitted changes' if here['dirty'] else ''}."
    csv = grid.data_url("text/csv", numbers.to_csv(index=False, float_format="%.6g"))
    link = f'<a download="{key or "figure"}.csv" href="{csv}">Numbers of this figure (csv)</a>.'
    drawing, order = look.drawing(picture, alt), ""
    if 'class="phone"' in drawing and re.search(r"\b(Left|Right)\b", caption):
        order = ' <span class="phone">Panels stand below each other here, left ones first.</span>'
    caption = html.escape(minus(f"{caption} {(source or '').strip()}").strip())
    page = f'<figure class="plate">{drawing}<figcaption>{caption}{order} {link}</figcaption></figure>'
    _put({"text/html": page, "text/plain": alt}, key)


def table(frame: pd.DataFrame, digits: int = 2, key: str | None = None) -> None:
    """A table (`grid.table`), numbers with so many digits; without rows, nothing."""
    if not frame.empty:
        page = grid.table(frame, digits, key or "table")
        _put({"text/html": page, "text/plain": frame.to_string(index=False)}, key)


def sentence(text: str, key: str, hidden: bool = False) -> None:
    """A sentence that was computed, in plain text, that other pages show by its key; `hidden`: they alone."""
    text, before = minus(text), HIDDEN if hidden else ""
    _put({"text/html": f'<p class="sentence">{html.escape(text)}</p>', "text/plain": text}, key, before)


def live(page: str, text: str, key: str) -> None:
    """HTML that a script of the book brings to life (`book/_static`); `text` says what it is where there is no HTML."""
    _put({"text/html": page, "text/plain": text}, key)


def number(key: str, value: float, form: str = "") -> None:
    """A number that prose on other pages quotes as {glue:text}`../notebooks/NAME.ipynb::key:.2f`; nothing is shown.
    One that may be below zero has its format here, `key:s` there, for a true minus."""
    _put({"text/plain": minus(format(value, form)) if form else repr(float(value))}, key, HIDDEN)


def preview(figure) -> None:
    """The picture that a link to the book shows elsewhere, PNG of 1200 x 630 pixels; nothing is shown here. The build
    takes it out of the executed notebook (`notebooks.lay_out`). Call it before `figure`, which lays out anew."""
    size, file = figure.get_size_inches(), io.BytesIO()
    figure.set_size_inches(10, 5.25)
    figure.savefig(file, format="png", dpi=120)
    figure.set_size_inches(size)
    _put({"image/png": base64.b64encode(file.getvalue()).decode()}, "preview", HIDDEN)


def provenance(record: dict) -> None:
    """Where a record comes from, and its parameters, each to be unfolded."""
    origin = pd.json_normalize(record["provenance"]).T.reset_index().set_axis(["provenance", "value"], axis=1)
    params = pd.json_normalize(record["params"], sep=".").T.reset_index().set_axis(["parameter", "value"], axis=1)
    named = {"Where this record comes from": origin, "Its parameters": params}
    texts = {k: x.map(lambda value: "none" if value is None or value == "" else str(value)) for k, x in named.items()}
    folds = [f"<details><summary>{k}</summary>{grid.table(x)}</details>" for k, x in texts.items()]
    _put({"text/html": "".join(folds), "text/plain": f"{origin}\n{params}"}, None)


def _put(bundle: dict, key: str | None, before: str = "") -> None:
    metadata = {"scrapbook": {"name": key, "mime_prefix": before}} if key else {}
    display({before + kind: x for kind, x in bundle.items()}, metadata=metadata, raw=True)
