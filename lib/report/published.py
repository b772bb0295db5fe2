"""What the three papers print, as one tidy frame: a value a line, checked on reading.

Follows the papers to the letter: `printed` is the text of the cell, misprints included, and `value` its number (NaN for
words). What looks wrong is said in `suspected_misprint`, never mended; where a paper contradicts itself, and what we
do then, is in contradictions.csv beside the tables. Table 0 holds numbers from running text (figures, appendices).
Leaves out curves that are only drawn, tables of example responses, and bold print outside segment-ppo's tables.
"""

import csv
import os
from pathlib import Path

import pandas as pd

ROWS = {  # of each table, so that a file which is cut, empty or missing is no silent loss
    "segment-ppo": {1: 42, 2: 48, 3: 30, 4: 15, 5: 12, 6: 9, 7: 49, 8: 9, 9: 26, 0: 38},
    "adaptive-mask": {1: 91, 0: 25},
    "tlcr": {1: 24, 0: 37},
}
PAPERS = tuple(ROWS)
COLUMNS = "paper,table,row,column,value,unit,printed,bold,suspected_misprint,note".split(",")
AVERAGES = ("Average", "Overall", "AVG")  # how the papers label a mean: two as a column, one as a row


def load_published(paper: str | None = None, table: int | None = None) -> pd.DataFrame:
    """The published values, of one paper or table if asked; ValueError names file and line of a row that is wrong, and
    a file that is missing or has another number of rows than `ROWS`."""
    if paper is not None and paper not in PAPERS:
        raise ValueError(f"unknown paper {paper!r}: choose one of {', '.join(PAPERS)}")
    folder = Path(os.environ.get("DENSEREWARD_ROOT", Path(__file__).resolve().parents[2])) / "data" / "published"
    tables = [(name, n) for name in PAPERS for n in ROWS[name] if paper in (None, name) and table in (None, n)]
    if not tables:
        raise ValueError(f"no {paper or '*'}_table{table}.csv in {folder}: leave `table` out to see what there is")
    frame = pd.DataFrame([line for which in tables for line in _read(folder, *which)], columns=COLUMNS)
    return frame.assign(table=frame.table.astype(int), value=frame.value.map(_as_number), bold=frame.bold == "1")


def recomputed_averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Every printed average beside the mean of its parts; within_rounding: half a last digit of each can explain it."""
    found = []
    for across, along in (("column", "row"), ("row", "column")):
        is_mean, group = frame[across].isin(AVERAGES), ["paper", "table", along]
        for _, mean in frame[is_mean].iterrows():
            parts = frame[~is_mean & (frame[group] == mean[group]).all(axis=1)]
            slack = _half_digit(mean["printed"]) + parts["printed"].map(_half_digit).mean()
            fits = abs(mean["value"] - parts["value"].mean()) < slack - 1e-9
            found.append((*mean[group], mean["value"], parts["value"].mean(), fits))
    return pd.DataFrame(found, columns=["paper", "table", "label", "printed", "recomputed", "within_rounding"])


def _read(folder: Path, paper: str, table: int) -> list[list[str]]:
    file = folder / f"{paper}_{f'table{table}' if table else 'text'}.csv"
    try:
        with open(file, newline="", encoding="utf-8") as text:
            lines = list(csv.reader(text))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"{file}: cannot be read ({problem}); restore it from the repository") from None
    for number, cells in enumerate(lines, start=1):
        if problem := _problem(cells, file.stem, lines[: number - 1]):
            raise ValueError(f"{file}:{number}: {problem}")
    if len(lines) - 1 != ROWS[paper][table]:
        found, rows = max(len(lines) - 1, 0), ROWS[paper][table]
        raise ValueError(
            f"{file}: {found} rows, not {rows}; restore it from the repository, or mend ROWS in published.py"
        )
    return lines[1:]


def _problem(cells: list[str], stem: str, above: list[list[str]]) -> str | None:
    """What is wrong with a line and how to mend it; None if nothing is."""
    if not above:
        return None if cells == COLUMNS else f"the header must be {','.join(COLUMNS)}"
    if len(cells) != len(COLUMNS):
        return f"{len(cells)} cells, not {len(COLUMNS)}: put quotes around a cell that holds a comma"
    paper, table, row, column, value, _, printed, bold, _, _ = cells
    shown = _as_number(printed)  # NaN, unequal to itself, for words
    home = f"{paper}_text" if table == "0" else f"{paper}_table{table}"
    mends = [
        (home == stem, f"paper {paper!r}, table {table!r} belong in {home}.csv: move the line or mend them"),
        (row and column and printed, "row, column and printed must not be empty: copy them from the paper"),
        (cells[1:4] not in [line[1:4] for line in above], f"{row!r}, {column!r} stands above already: remove one"),
        (not value or pd.notna(_as_number(value)), f"value {value!r} is no number: write one or leave it empty"),
        (shown != shown or shown == _as_number(value), f"value {value!r} is not the printed {printed!r}: mend one"),
        (bold in ("0", "1"), f"bold is {bold!r}: write 1 or 0"),
    ]
    return next((mend for fine, mend in mends if not fine), None)


def _as_number(text: str) -> float:
    return float(pd.to_numeric(text.rstrip("%").replace(",", ""), errors="coerce"))


def _half_digit(printed: str) -> float:
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])
