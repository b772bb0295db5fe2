"""A frame as an HTML table in one style: a cell is one line, a measurement and its interval share one, units stand
below their heading, what does not fit side by side is folded, and all of it is there to download.

Rows of methods are sorted by what the table is about (HEADLINES); the best is marked only where its interval is clear
of the next one's. Rows of a printed table keep the paper's order. Rows of which nothing is measured are folded,
and what all rows have is said once. A phone shows a row as a block, under what names it (`book.css`)."""

import base64
import html
import itertools
import re
from collections import Counter

import numpy as np
import pandas as pd

from study.words import minus

HEADLINES = ("true return (credit)", "difference", "win rate")  # and what begins with "less "
HEADS = {"wins": "seeds above"}  # names in code that a reader would take for something else
COLUMNS, WIDTH = 7, 96  # what stands side by side: columns, and characters in a line
ASIDE = ("seeds", "prompts", "pairs", "profile", "dataset", "dirty", "device", "cpu")  # said once where all rows agree
NUMBER = re.compile(r"(-?[\d,]*\.?\d+)( ± [\d,.]+| \[[^]]*\])?((?: \([^)]*\))*)")
HALF = re.compile(r"(-?[\d,.]+) ± ([\d,.]+)")
SIDES = re.compile(r"-?[\d,.]+ \[")
INTERVAL = re.compile(r"\d (?:± |\[)[-−\d]")  # what makes words a measurement
WORDS, WRAPPED = 30, 20  # characters: a longer text may take several lines, of which each has so many
BOTH = re.compile(r"\(\S+ to \S+\)")  # `summary.interval_text` of two seeds
SAME = 3  # rows from which what they all say is said once
PHONE = 50  # characters in a line of a phone


def table(frame: pd.DataFrame, digits: int = 2, name: str = "table") -> str:
    """The HTML of a frame with one row or more, numbers with so many digits; `name` is that of its csv."""
    csv = data_url("text/csv", frame.to_csv(index=False, float_format="%.6g"))
    cells = _texts(
        _joined(frame.rename(columns=lambda text: HEADS.get(text, str(text).replace("_", " "))), digits), digits
    )
    empty, grouped = _empty(cells), _grouped(cells.iloc[:, 0])
    lacking = cells.loc[empty, [c for c in cells if not _measured(cells, c) and c not in ASIDE]]
    cells, best = _ranked(cells[~empty])
    if cells.columns[0] == "here":  # beside no paper's column
        cells, lacking = (x.rename(columns={"here": "method"}) for x in (cells, lacking))
    aside = [c for c in cells if _aside(cells[c])]
    said = [f"{html.escape(c)} {_cell(cells[c].iloc[0])}" for c in aside]
    groups = cells.iloc[:, 0] if grouped else None
    shown, rest = _fitting(cells.drop(columns=aside if groups is None else [*aside, cells.columns[0]]))
    main = _html(cells[shown], groups, best) if len(cells) else ""
    if main and rest:
        keys = _keys(cells, shown, groups)
        main += f"<details><summary>{_list(rest, shown)}</summary>{_html(cells[[*keys, *rest]], groups)}</details>"
    if len(lacking):
        rows = _html(lacking.iloc[:, int(grouped) :], lacking.iloc[:, 0] if grouped else None)
        count = "1 row" if len(lacking) == 1 else f"{len(lacking)} rows"
        main += f"<details><summary>Nothing measured yet: {count}</summary>{rows}</details>"
    said = f"In all rows: {'; '.join(said)}. " if said else ""
    two = any(cells[c].str.contains(BOTH).any() for c in cells)
    said += "In brackets, of two seeds, which have no interval: both. " if two else ""
    said += f'<a download="{html.escape(name)}.csv" href="{csv}">Numbers (csv)</a>'
    return f'<div class="grid">{main}<p class="under">{said}</p></div>'


def _aside(column: pd.Series) -> bool:
    """Whether a column says one thing, which is no finding of a few rows by chance, in all rows."""
    alike = len(column) > 1 and column.nunique() == 1 and column.iloc[0] != ""
    return alike and (column.name in ASIDE or (len(column) >= SAME and not INTERVAL.search(column.iloc[0])))


def data_url(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _joined(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """The frame with `x`, `low`, `high` (or `x low`, `x high`) as one column of text; ± where all are symmetric."""
    found = frame.copy()
    for low in [c for c in frame if c == "low" or c.endswith(" low")]:
        high, x = low[:-3] + "high", low[:-4] or frame.columns[frame.columns.get_loc(low) - 1]
        if not {x, high} <= set(frame):
            continue
        numbers = frame[[x, low, high]].astype(float)
        up, down = numbers[high] - numbers[x], numbers[x] - numbers[low]
        even = np.isclose(up.dropna(), down.dropna(), rtol=1e-6, atol=1e-9).all()
        texts = []
        for (mean, a, b), half in zip(numbers.to_numpy(), up):
            interval = "" if np.isnan(a) else f" ± {half:.{digits}f}" if even else f" [{a:.{digits}f}, {b:.{digits}f}]"
            texts.append(None if np.isnan(mean) else f"{mean:.{digits}f}{interval}")
        found = found.assign(**{x: pd.Series(texts, frame.index, dtype=object)}).drop(columns=[low, high])
    return found


def _texts(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Every cell as text, "" for a missing one; large whole numbers without decimals."""
    found = {}
    for place, name in enumerate(frame):
        column = frame.iloc[:, place]
        numbers = column.dropna() if pd.api.types.is_float_dtype(column) else pd.Series(dtype=float)
        whole = (numbers == numbers.round()).all() and numbers.abs().max() >= 10
        found[name] = ["" if pd.isna(x) else _text(x, 0 if whole else digits) for x in column]
        if any(" ± " in text for text in found[name]):  # a column has one way to write an interval
            found[name] = [re.sub(r"^(\S+) \[\1, \1\]", _pointed, text) for text in found[name]]
        if any(SIDES.match(text) for text in found[name]):
            found[name] = [HALF.sub(_sided, text) for text in found[name]]
    return pd.DataFrame(found, index=frame.index)


def _pointed(match: re.Match) -> str:
    return f"{match[1]} ± {0:.{len(match[1].partition('.')[2])}f}"


def _sided(match: re.Match) -> str:
    mean, half = (float(x.replace(",", "")) for x in match.groups())
    digits = len(match[2].partition(".")[2])
    return f"{match[1]} [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"


def _text(x, digits: int) -> str:
    if isinstance(x, bool | np.bool_):
        return "yes" if x else "no"
    if isinstance(x, float | np.floating):
        return f"{x:,.{digits}f}" if digits == 0 and abs(x) >= 1e4 else f"{x:.{digits}f}"
    return f"{x:,}" if isinstance(x, int | np.integer) and abs(x) >= 1e4 else str(x)


def _ranked(cells: pd.DataFrame) -> tuple[pd.DataFrame, tuple | None]:
    """Rows of methods from the highest headline down, and where the best stands (row, column) if it is clear."""
    heads = [*HEADLINES, *(c for c in cells if c.startswith("less "))]
    column = next((c for c in heads if c in cells and cells.columns[0] == "method"), None)
    if column is None or not cells[column].map(lambda text: not text or NUMBER.fullmatch(text)).all():
        return cells, None
    means = cells[column].map(lambda text: float(NUMBER.match(text)[1].replace(",", "")) if text else -np.inf)
    cells = cells.loc[means.sort_values(ascending=False, kind="stable").index]
    first = [HALF.match(text) for text in cells[column].iloc[:2]]
    if column != HEADLINES[0] or len(first) < 2 or not all(first):
        return cells, None
    (top, over), (second, under) = ([float(x.replace(",", "")) for x in found.groups()] for found in first)
    return cells, (cells.index[0], column) if top - over > second + under else None


def _numeric(column: pd.Series) -> bool:
    return column.map(lambda text: not text or bool(NUMBER.fullmatch(text))).all()


def _measured(cells: pd.DataFrame, name: str) -> bool:
    """Whether a column holds what is measured of its rows, and no name, place or unit of theirs."""
    if name in (cells.columns[0], "seeds"):
        return False
    return _numeric(cells[name]) or (cells[name] == "").any() or cells[name].str.contains(INTERVAL).any()


def _empty(cells: pd.DataFrame) -> pd.Series:
    """Which rows hold nothing that is measured; none of a table that is about something else."""
    told = [c for c in cells if _measured(cells, c)]
    return (cells[told] == "").all(axis=1) & bool(told)


def _grouped(column: pd.Series) -> bool:
    """Whether rows stand below each other in a few groups that the first column names again and again."""
    runs = 1 + (column != column.shift()).iloc[1:].sum()
    return bool(1 < column.nunique() == runs <= len(column) / 3)


def _fitting(cells: pd.DataFrame) -> tuple[list, list]:
    """Columns that stand side by side, and those that do not."""
    shown, width = [], 0
    for name in cells:
        words = max(map(len, re.split(r"\s+", name)))
        longest = cells[name].map(len).max()
        width += max(words, longest if longest <= WORDS else WRAPPED) + 2
        if len(shown) >= 2 and (width > WIDTH or len(shown) == COLUMNS):
            break
        shown.append(name)
    return shown, [c for c in cells if c not in shown]


def _keys(cells: pd.DataFrame, shown: list, groups: pd.Series | None) -> list:
    """The columns that name a row (of a group): the first shown, or as many beside it, names or plain numbers, as tell
    rows apart; the names among them where none do."""
    plain = itertools.takewhile(lambda c: (cells[c] != "").all() and not cells[c].str.contains(INTERVAL).any(), shown)
    plain = list(plain) or shown[:1]
    found = next((plain[:n] for n in range(1, len(plain) + 1) if _apart(cells[plain[:n]], groups)), None)
    return found or [*shown[:1], *itertools.takewhile(lambda c: not _numeric(cells[c]), plain[1:])]


def _apart(cells: pd.DataFrame, groups: pd.Series | None) -> bool:
    return not pd.concat([cells] if groups is None else [groups, cells], axis=1).duplicated().any()


def _list(names: list[str], shown: list[str]) -> str:
    """Names of what is folded, each without its unit unless that tells it from another."""
    plain = {name: re.sub(r" \([^)]*\)$", "", name) for name in [*names, *shown]}
    counts = Counter(plain.values())
    return "Also: " + "; ".join(html.escape(plain[x] if counts[plain[x]] == 1 else x) for x in names)


def _html(cells: pd.DataFrame, groups: pd.Series | None = None, best: tuple | None = None) -> str:
    """A table, its rows in `groups`; `best` is the cell (row, column) to mark."""
    kinds = {c: "n" if _numeric(cells[c]) else "t" if cells[c].map(len).max() > WORDS else "" for c in cells}
    widths = {c: max((len(m[2]) for text in cells[c] if (m := HALF.match(text))), default=0) for c in cells}
    head = "".join(f'<th scope="col"{_class(kinds[c])}>{_heading(c)}</th>' for c in cells)
    rows = []
    last = None
    heads = _keys(cells, list(cells), groups)
    heads = heads[-1:] if _apart(cells[heads[-1:]], groups) and not _numeric(cells[heads[-1]]) else heads
    for index, row in cells.iterrows():
        line = []
        if groups is not None and groups[index] != last:
            last = groups[index]
            name = f"{groups.name} {last}" if NUMBER.fullmatch(last) else last  # a number alone says nothing
            rows.append(f'<tr class="group"><th colspan="{len(row)}" scope="rowgroup">{html.escape(name)}</th></tr>')
        for c in cells:
            text = _cell(row[c], widths[c])
            text = f"<strong>{text}</strong>" if (index, c) == best else text
            kind = " ".join(filter(None, (kinds[c], "blank" * (not row[c]), "head" * (c in heads))))
            line.append(f'<td{_class(kind)} data-label="{html.escape(c)}">{text}</td>')
        bare = len(row) > len(heads) and not any(row.drop(heads))
        rows.append(f"<tr{_class('bare' * bare)}>{''.join(line)}</tr>")
    width = sum(max(cells[c].map(len).max(), *map(len, re.split(r"\s+", c))) + 2 for c in cells)
    stack = " stack" if len(cells.columns) > 3 or "t" in kinds.values() or width > PHONE else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="sheet{stack}">{body}</table>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _heading(name: str) -> str:
    text, unit = re.fullmatch(r"(.*?)( \([^)]*\))?", name).groups()
    return html.escape(text) + (f' <span class="unit">{html.escape(unit.strip())}</span>' if unit else "")


def _cell(text: str, width: int = 0) -> str:
    """A cell's HTML: a true minus, half-widths padded to `width` digits, so that numbers stand below each other."""
    if not text:
        return "–"
    if re.fullmatch(r"[0-9a-f]{40}", text):
        return f'<code title="{text}">{text[:7]}</code>'
    if match := NUMBER.fullmatch(text):
        mean, interval, rest = match.groups()
        if half := HALF.match(text):
            interval = f" ± {half[2].rjust(width, chr(0x2007))}"
        mean, interval = (minus(part) for part in (mean, interval or ""))
        if width and not interval and not rest:  # none in a column of intervals: the number stays below the others
            interval = f'<span class="none" aria-hidden="true"> ± {"0" * (width - 1)}.</span>'
        return mean + interval + html.escape(minus(rest))
    return html.escape(minus(text))
