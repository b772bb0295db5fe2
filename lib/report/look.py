"""How every figure looks: a white card with text as text, one colour and one marker for each method everywhere.

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

import itertools

import matplotlib
from matplotlib.figure import Figure

from study.methods import METHODS
from study.summary import label

STYLE = {  # method: colour, marker, line; a variant shares its colour with what it varies
    "sft": ("#000000", "|", ":"),
    "bandit": ("#0072B2", "o", "-"),
    "sentence": ("#8C564B", "P", "-"),
    "token": ("#E69F00", "s", "-"),
    "bandit-as-segment": ("#D55E00", "h", "--"),
    "segment-as-bandit": ("#0072B2", "p", "--"),
    "segment": ("#D55E00", "D", "-"),
    "dpo": ("#555555", "*", "-"),
    "random": ("#CC79A7", "X", "-"),
    "oracle-sequence": ("#56B4E9", "^", "-"),
    "oracle-dense": ("#009E73", "v", "-"),
    "oracle-dense-even": ("#009E73", "^", ":"),
    "oracle-sequence-noisy": ("#56B4E9", "<", "--"),
    "oracle-dense-noisy": ("#009E73", ">", "--"),
    "bandit-synthetic": ("#0072B2", "H", ":"),
    "tlcr": ("#882255", "d", "-"),
    "tlcr-fixed": ("#882255", "8", "--"),
    "appo": ("#009E73", "o", "-"),
    "online-dpo": ("#555555", "p", "--"),
    "adpo": ("#009E73", "*", "-"),
    "rs": ("#8C6D1F", "s", "--"),
    "ars": ("#009E73", "s", "-"),
    "remax": ("#8C6D1F", "P", "-"),
    "figa": ("#CC79A7", "v", "-"),
    "figa-window": ("#CC79A7", "^", "--"),
    "rloo": ("#56B4E9", "p", "-"),
    "grpo": ("#56B4E9", "h", "--"),
    "rto": ("#D55E00", "<", "-"),
    "abc": ("#E69F00", ">", "-"),
    "tlcr-pooled": ("#882255", "D", ":"),
    "segment-grpo": ("#D55E00", "P", ":"),
    "token-grpo": ("#E69F00", "h", ":"),
    "tlcr-grpo": ("#882255", "s", "-."),
    "segment-rloo": ("#D55E00", "X", "--"),
    "token-rloo": ("#E69F00", "p", "--"),
    "tlcr-rloo": ("#882255", "P", "--"),
    "appo-oracle": ("#009E73", "X", ":"),
    "adpo-oracle": ("#009E73", "H", ":"),
    "ars-oracle": ("#009E73", "d", ":"),
    "tlcr-without-negative": ("#009E73", "P", "-"),
    "tlcr-without-positive": ("#E69F00", "X", "-"),
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
    """Keywords of `Axes.plot` for a method; ablations share one, their names stand at the axis."""
    spare = ("#555555", "o") if method in METHODS else SPARE[sum(map(ord, method)) % len(SPARE)]
    colour, marker, line = STYLE.get(method, (*spare, "-"))
    return {"color": colour, "marker": marker, "linestyle": line, "label": label(method)}


def head(ax, title: str = "") -> None:
    """Title, and the legend between it and the axes, so that it covers no curve."""
    where = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "alignment": "left", "borderaxespad": 0.1}
    ax.legend(frameon=False, title=title, title_fontsize=10, **where)
