"""The grid of the map of where density pays: its axes, its rows, the size of its runs (`density_map.py` makes them).

Left out: settings of each cell's own; longer answers than two kinds at once; returns that are no sum of credits.
"""

import itertools

from study.methods import LEARNED, METHODS
from study.profiles import BRIEF

HORIZONS = (  # about 32 and 56 tokens an answer
    {"world": {}},
    {"world": {"kinds": 4, "parts": 2}, "max_completion_length": 192},
)
PAIRS, PRICES, LAMBDAS = (4_000, 500), (-1.0, -0.2, 0.0, 0.2), (1.0, 0.8)
METHODS_OF_MAP = ("sft", "oracle-dense", "oracle-sequence", "bandit", "segment", "token")


def cells() -> list[dict]:
    """The axes of every cell, `horizon` (its parts), `pairs`, `price`, `lam`, in the order in which they are run."""
    axes = itertools.product(PAIRS, range(1, len(HORIZONS) + 1), LAMBDAS, PRICES)
    return [{"horizon": horizon, "pairs": pairs, "price": price, "lam": lam} for pairs, horizon, lam, price in axes]


def changes(horizon: int, pairs: int, price: float, lam: float) -> dict:
    """What a cell changes of profile `cpu`."""
    at = HORIZONS[horizon - 1]
    world = {**at["world"], "returns": f"excess{price:+.1f}"}
    return {**BRIEF, **at, "world": world, "pairs": pairs, "lam": lam}


def learned(name: str) -> bool:
    """Whether a row's reward is learned from pairs."""
    return METHODS[name].scorer in LEARNED


def methods(pairs: int) -> tuple[str, ...]:
    """The rows of a cell; what learns from no pairs stands at the larger number of them alone."""
    return tuple(m for m in METHODS_OF_MAP if pairs == max(PAIRS) or learned(m))
