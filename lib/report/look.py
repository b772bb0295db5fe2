"""How every figure looks: text as text, one colour and one marker for each method everywhere, on the page's own ground.

Colours are Okabe and Ito's, which colour-blind readers tell apart; each is a variable that dark mode sets to its twin.
"""

import hashlib
import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from report import lines, phone
from study.methods import METHODS
from study.summary import label
from study.words import minus

STYLE = {  # method: colour, marker, line; no two of one figure of lines share a colour
    "sft": ("#000000", "|", ":"),
    "bandit": ("#0072B2", "o", "-"),
    "sentence": ("#8C564B", "P", "-"),
    "token": ("#E69F00", "s", "-"),
    "bandit-as-segment": ("#CC6677", "h", "--"),
    "segment-as-bandit": ("#999933", "p", "--"),
    "segment": ("#D55E00", "D", "-"),
    "normaliser-none": ("#444444", "p", ":"),
    "dpo": ("#555555", "*", "-"),
    "random": ("#CC79A7", "X", "-"),
    "random-rewards": ("#6b6b6b", "X", ":"),
    "oracle-sequence": ("#56B4E9", "^", "-"),
    "oracle-dense": ("#009E73", "v", "-"),
    "oracle-dense-even": ("#117733", "^", ":"),
    "oracle-sequence-noisy": ("#8C6D1F", "<", "--"),
    "oracle-dense-noisy": ("#999933", ">", "--"),
    "bandit-synthetic": ("#56B4E9", "H", ":"),
    "tlcr": ("#882255", "d", "-"),
    "tlcr-fixed": ("#CC6677", "8", "--"),
    "appo": ("#332288", "H", "-"),
    "online-dpo": ("#8C564B", "s", "--"),
    "adpo": ("#CC6677", "*", "-"),
    "rs": ("#44AA99", "s", "--"),
    "ars": ("#999933", "s", "-"),
    "remax": ("#8C6D1F", "P", "-"),
    "gtpo": ("#117733", "D", "--"),
    "figa": ("#882255", "v", "-"),
    "figa-window": ("#56B4E9", "v", "--"),
    "rloo": ("#44AA99", "p", "-"),
    "grpo": ("#332288", "h", "--"),
    "rto": ("#CC6677", "<", "-"),
    "abc": ("#999933", "d", "-"),
    "tlcr-pooled": ("#332288", "D", ":"),
    "segment-grpo": ("#D55E00", "P", ":"),
    "token-grpo": ("#E69F00", "h", ":"),
    "tlcr-grpo": ("#882255", "s", "-."),
    "segment-rloo": ("#8C564B", "X", "--"),
    "token-rloo": ("#999933", "D", "--"),
    "tlcr-rloo": ("#CC79A7", "P", "--"),
    "appo-oracle": ("#332288", "X", ":"),
    "adpo-oracle": ("#CC6677", "H", ":"),
    "ars-oracle": ("#999933", "8", ":"),
    "tlcr-without-negative": ("#332288", "P", "-"),
    "tlcr-without-positive": ("#CC79A7", "<", "-"),
}
DARK = {  # colour of a figure: its twin on a dark ground, as lines of `book.css`; any other colour stays as it is
    "#000000": "#e6e6e6",
    "#ffffff": "var(--pst-color-background)",
    "#e4e4e4": "#333a44",
    "#444444": "#bbbbbb",
    "#555555": "#a8a8a8",
    "#6b6b6b": "#9a9a9a",
    "#b5b5b5": "#6a717b",
    "#a9c9e2": "#35658c",
    "#0072b2": "#3b8fd0",
    "#56b4e9": "#9ad5f5",
    "#009e73": "#1fb88c",
    "#d55e00": "#ee7a2c",
    "#e69f00": "#f0b429",
    "#cc79a7": "#e6a6cc",
    "#882255": "#cf5a9c",
    "#8c564b": "#bd8473",
    "#8c6d1f": "#b8963c",
    "#332288": "#cdc4ff",
    "#117733": "#4fae6b",
    "#44aa99": "#78d3c4",
    "#999933": "#c6c65c",
    "#cc6677": "#ea95a2",
    "#aa0000": "#ff7b72",
    "#1b1b1b": "#e6e6e6",  # strips: ink, below and above zero, segments, kinds of spans
    "#ea9f51": "#98551a",
    "#6fafe1": "#2d659b",
    "#d6e9f8": "#24496b",
    "#fbe3c6": "#5f431c",
    "#bfe3d4": "#1d5a45",
    "#f6c5ab": "#7d3d1c",
    "#f3e3b3": "#5d5220",
    "#d9d0ea": "#4d4170",
    "#e2e2e2": "#464646",
    "#dceefa": "#1f4560",
    "#c9c9c9": "#565656",
}
SPARE = tuple(itertools.product(("#555555", "#8C6D1F"), "Pph*d"))  # for rows that a reader adds to `methods.py`
RC = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "densereward",  # equal figures are equal files
}
EDGE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # behind a number at the edge of an axis


def canvas(rows: int = 1, columns: int = 1, height: float = 2.4, width: float = 7.4, **options):
    """(figure, axes [rows, columns]) in the book's style; inches, `height` per row. Belongs to no pyplot state."""
    matplotlib.rcParams.update(RC)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def style(method: str) -> dict:
    """Keywords of `Axes.plot` for a method; a variant that STYLE lacks has the colour and marker of what its name says
    that it varies, other ablations share one: their names stand at the axis."""
    parts = method.split("-")
    stem = next((stem for i in range(len(parts), 0, -1) if (stem := "-".join(parts[:i])) in STYLE), None)
    spare = ("#555555", "o") if method in METHODS else SPARE[sum(map(ord, method)) % len(SPARE)]
    colour, marker, line = STYLE.get(stem if method in METHODS else method, (*spare, "-"))
    line = line if method in STYLE or not stem else "--"
    return {"color": colour, "marker": marker, "linestyle": line, "label": label(method)}


def head(ax) -> None:
    """The legend above the axes, so that it covers no curve."""
    where = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "alignment": "left", "borderaxespad": 0.1}
    ax.legend(frameon=False, **where)


PLACES = [(side * 7, up) for up in (4, -10, 14, -20, 24, -30) for side in (1, -1)]  # offsets of a name, in points
NEAR = 25  # pixels between points of which a reader could take one's name for the other's
POINT = "point"  # the mark of the name of a point


def names(ax, points: list[tuple[float, float, str]]) -> None:
    """The name of each point (x, y, name) beside it, within the axes, over no other name or point and below those of
    higher points near by, once `beside` has moved them."""
    for x, y, name in points:
        lead = {"arrowprops": lines.LEAD, "fontsize": 8.5, "textcoords": "offset points", "gid": POINT}
        ax.annotate(name, (x, y), (0, 0), **lead)


def beside(figure: Figure) -> None:
    """Moves the names of points (`names`) to where a figure, as it is laid out, has room for them."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        texts = [text for text in ax.texts if text.get_gid() == POINT]
        spots = ax.transData.transform([text.xy for text in texts]) if texts else []
        taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in spots]
        higher = []  # (spot, box of its name)
        for spot, text in sorted(zip(spots, texts), key=lambda one: -one[0][1]):
            near = (box.y0 for at, box in higher if np.hypot(*(at - spot)) < NEAR and at[1] > spot[1])
            top, boxes = min(near, default=np.inf), {place: _placed(text, place) for place in PLACES}
            free = [p for p, box in boxes.items() if _within(box, ax.bbox) and not any(map(box.overlaps, taken))]
            place = next((p for p in free if boxes[p].y0 <= top), (free or PLACES[-1:])[0])
            _placed(text, place)
            text.arrow_patch.set_visible(abs(place[1]) > 10)
            taken.append(boxes[place])
            higher.append((spot, boxes[place]))


def _placed(text, place: tuple) -> Bbox:
    """Where a name lies once it is moved to an offset of PLACES."""
    text.set(position=place, ha="left" if place[0] > 0 else "right")
    return matplotlib.text.Text.get_window_extent(text)  # without its lead


def _within(box: Bbox, outer: Bbox) -> bool:
    return outer.containsx(box.x0) and outer.containsx(box.x1)


def variable(colour: str) -> str:
    """A colour "#rrggbb" as the CSS variable that dark mode sets to its twin, where it has one (`DARK`)."""
    return f"var(--c{colour[1:]}, {colour})" if colour in DARK else colour


def drawing(figure: Figure, alt: str) -> str:
    """A figure as SVG within a page, and after it once more for a phone (`phone.stack`, which leaves the figure so):
    `alt` for readers who cannot see it, its colours as variables (`DARK`)."""
    page = _svg(figure, alt)
    if phone.stack(figure):
        return page.replace("<svg", '<svg class="page"', 1) + _svg(figure, alt).replace("<svg", '<svg class="phone"', 1)
    return page.replace("<svg", '<svg class="wide"', 1) if figure.get_figwidth() > phone.FITS else page


def _svg(figure: Figure, alt: str) -> str:
    phone.wrap(figure)
    lines.mark(figure)
    lines.apart(figure)
    beside(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = lines.told(figure, file.getvalue())
    svg = re.sub(r"<(style|metadata)\b.*?</\1>\s*", "", svg, flags=re.S)  # a style would reach all the page
    svg = re.sub(r">[^<]+<", lambda m: minus(m[0]), svg)
    size = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    name = "f" + hashlib.sha256(body.encode()).hexdigest()[:6]
    used = set(re.findall(r"#(\w+)[\")]", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"(href=\"|url\()#", rf"\1#{name}", body)
    body = re.sub("#[0-9a-f]{6}", lambda m: variable(m[0]), body)
    body = re.sub(r' (?:d|x|y)="[^"]+"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    wide, least = (pixels * figure.get_figwidth() for pixels in (108, 78))  # an inch; 78 where it scrolls
    look = f"max-width:{wide:.0f}px;--least:{least:.0f}px;stroke-linejoin:round;stroke-linecap:butt;"
    look += "fill:" + variable("#000000")
    return f'<svg role="img" aria-label="{html.escape(alt)}" {size} style="{look}">{body}'
