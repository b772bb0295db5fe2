"""Lines that say what they are: a name at each one's end, its values under the pointer (`book/_static/lines.js`).

Names and values are read from matplotlib's own objects, so that every figure has them: a line counts whose label is a
name (matplotlib begins others with "_"). Left out: bands and bars around a line, which are in the figure's csv."""

import html
import json
import re
import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy
from scipy.optimize import isotonic_regression

from study.words import minus

NAME, HEIGHT = "name", 10.5  # the mark of a name at an end; points per line of its text
OTHER = "#b5b5b5"  # the colour of lines without a name of their own
SETTINGS = "settings"  # the mark of an axis on which lines stand a little apart at each tick
NUMBER = re.compile(r"[−-]?[\d.,]*(e[+-]?\d+)?|\$.*\$")  # how ticks of numbers look, maths among them
LEAD = {"arrowstyle": "-", "linewidth": 0.6, "color": "#6b6b6b"}  # from a name to its point


def ends(ax, title: str = "", width: int = 18, last: bool = False) -> None:
    """Title, and the name of each line at the right, led to its end in its colour, about `width` letters wide: no
    legend to look for; those in the colour OTHER are counted. Its end is what lies farthest right, or its `last` point.
    `apart` moves names off each other once the figure is laid out."""
    ax.set_title(title, loc="left")
    beside = offset_copy(ax.get_yaxis_transform(), ax.figure, x=12, units="points")
    found = [line for line in ax.get_lines() if len(_points(line))]
    others = [line for line in found if line.get_color() == OTHER]
    for line in found:
        if line not in others[1:]:
            points, text = _points(line), f"{len(others)} others" if line in others else line.get_label()
            end, text = points[-1 if last else np.argmax(points[:, 0])], textwrap.fill(text, width)
            lead = LEAD | {"color": line.get_color(), "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0}
            place = {"xycoords": line.get_transform(), "textcoords": beside, "annotation_clip": False}
            name = ax.annotate(text, end, (1, end[1]), va="center", fontsize=8.5, arrowprops=lead, **place)
            name.set(linespacing=1, gid=NAME)


def apart(figure: Figure) -> None:
    """Moves the names at the ends of lines up and down, as little as leaves them off each other, in the order of their
    ends."""
    figure.draw_without_rendering()
    point = figure.dpi / 72
    for ax in figure.axes:
        names = [text for text in ax.texts if text.get_gid() == NAME]
        at = {name: np.clip(ax.transData.transform((1, name.xy[1]))[1], *ax.bbox.intervaly) for name in names}
        names.sort(key=at.get)
        heights = HEIGHT * point * np.array([1 + name.get_text().count("\n") for name in names])
        if names:
            below = np.cumsum(heights) - heights / 2  # the least that lies below the middle of each
            free = isotonic_regression([at[name] for name in names] - below).x
            free = free.clip(ax.bbox.y0, max(ax.bbox.y0, ax.bbox.y1 - heights.sum()))
            for name, y in zip(names, free + below):
                name.set_position((1, ax.transData.inverted().transform((0, y))[1]))


def mark(figure: Figure) -> None:
    """Gives each named line the gid by which `told` finds it in the SVG."""
    for i, line in enumerate(line for ax in figure.axes for line in ax.get_lines()):
        line.set_gid(f"line-{i}")


def told(figure: Figure, svg: str) -> str:
    """The SVG of a figure (`mark`), each named line with what it says at each point: its last one as a title, which
    browsers show, and all as data that `lines.js` reads out."""
    scale, height = 72 / figure.dpi, 72 * figure.get_figheight()
    for ax in figure.axes:
        units = [_unit(ax, way) for way in "xy"]
        for line in ax.get_lines():
            points = _points(line)
            if line.get_transform() != ax.transData or not len(points):
                continue
            x, y = (ax.transData.transform(points) * scale).round(1).T
            values = map(_values, (ax.xaxis, ax.yaxis), points.T)
            rows = [list(row) for row in zip(x.tolist(), (height - y).round(1).tolist(), *values)]
            last = ", ".join(f"{unit} {value}".strip() for unit, value in zip(units, rows[-1][2:]))
            data = html.escape(json.dumps([line.get_label(), units, rows], ensure_ascii=False, separators=(",", ":")))
            title = f"<title>{html.escape(f'{line.get_label()}: {last}')}</title>"
            svg = svg.replace(f'<g id="{line.get_gid()}">', f'<g data-line="{data}">{title}', 1)
    return svg


def _points(line) -> np.ndarray:
    """The points [N, 2] of a line with a name, without gaps; of one across all the axes its height alone counts."""
    points = np.column_stack([line.get_xdata(orig=False), line.get_ydata(orig=False)]).astype(float)
    drawn = line.get_transform() in (line.axes.transData, line.axes.get_yaxis_transform())
    return points[np.isfinite(points).all(1)] if drawn and not line.get_label().startswith("_") else points[:0]


def _unit(ax, way: str) -> str:
    """The label of an axis, or of the axes that share it."""
    shared = getattr(ax, f"get_shared_{way}_axes")().get_siblings(ax)
    words = [getattr(one, f"get_{way}label")() for one in (ax, *shared)]
    return " ".join(next(filter(None, words), "").split())


def _values(axis, numbers) -> list[str]:
    """Numbers as text; on an axis of settings, or whose ticks are words, the text of the nearest tick."""
    at = axis.get_majorticklocs()
    texts = axis.get_major_formatter().format_ticks(at)
    if axis.get_gid() == SETTINGS or not all(map(NUMBER.fullmatch, texts)):
        return [texts[np.abs(at - number).argmin()] for number in numbers]
    return [minus(f"{number:.4g}") for number in numbers]
