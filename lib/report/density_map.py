"""Where density pays: gains in every cell of `study/density_cells.py`'s grid, and what was foretold.

The truth in time leads the bandit by being true and by being dense; the truth at the end tells the two apart.

Intervals pool the spread over all cells of a row (`summary.pooled`).

Left out: settings of each cell's own, and interactions of axes beyond what the eye sees in the figure.
"""

import itertools

import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from report.look import canvas
from study.density_cells import HORIZONS, LAMBDAS, METHODS_OF_MAP, PAIRS, PRICES, cells, changes, learned, methods
from study.identity import of_testbed, same
from study.methods import METHODS
from study.profiles import profile
from study.summary import label, p_text, pooled

LEVELS = {"horizon": range(1, len(HORIZONS) + 1), "pairs": PAIRS, "lam": LAMBDAS, "price": PRICES}
AXES = list(LEVELS)
GRID = list(itertools.product(*LEVELS.values()))
KINDS = {1: "one kind", 2: "two kinds"}
PANELS = {  # of the figure: a row, and what it is less
    "Truth in time, less at the end": ("oracle-dense", "oracle-sequence"),
    "Truth at the end, less bandit": ("oracle-sequence", "bandit"),
    "Tokens, less bandit": ("token", "bandit"),
    "Segments, less bandit": ("segment", "bandit"),
}
GAINS = {"Truth in time, less bandit": ("oracle-dense", "bandit")} | PANELS
LEVEL = 0.1  # credit: a gain that is not worth a name
GROUND = {"ahead": "#6fafe1", "leans ahead": "#d6e9f8", "level": "#e2e2e2"}
GROUND |= {"leans behind": "#fbe3c6", "behind": "#ea9f51"}


def returns(records: list[dict], units: list[dict]) -> pd.DataFrame:
    """method, horizon, pairs, lam, price, seed, value (true return, credit), regularised (the same less the KL penalty
    in credit: coefficient x nats x `units`, the records of `oracle_units`; nan without) of every run that is one of the
    map's, whatever else the records hold. What learns from no pairs stands at every number of them."""
    rows, of_world = {}, {(u["parts"], u["returns"], u["seed"]): u["unit"] for u in units}
    for r in filter(_of_map, records):
        p, final = r["params"]["profile"], r["final"]
        world = p["world"]["parts"], p["world"]["returns"], r["seed"]
        penalty = p["kl_coef"] * (final.get("kl") or 0.0) * of_world.get(world, np.nan)
        for pairs in [p["pairs"]] if learned(r["method"]) else PAIRS:
            key = r["method"], p["world"]["parts"], pairs, p["lam"], _price(p["world"]), r["seed"]
            rows[key] = final["true_return"], final["true_return"] - penalty
    columns = ["method", *AXES, "seed", "value", "regularised"]
    frame = pd.DataFrame([(*key, *values) for key, values in rows.items()], columns=columns)
    return frame.astype({"value": float, "regularised": float})


def _of_map(record: dict) -> bool:
    """Whether a record is of a run of the map, all its settings included."""
    p = record["params"]["profile"]
    axes = {"horizon": p["world"]["parts"], "pairs": p["pairs"], "price": _price(p["world"]), "lam": p["lam"]}
    if record["kind"] != "run" or axes not in cells() or record["method"] not in methods(p["pairs"]):
        return False
    return same(record["params"], of_testbed(profile("cpu", **changes(**axes)), METHODS[record["method"]]))


def _price(world: dict) -> float | None:
    """What an item too many is worth (credit), where returns say so."""
    return float(world["returns"].removeprefix("excess")) if world["returns"].startswith("excess") else None


def gains(frame: pd.DataFrame, pair: tuple[str, str], column: str = "value") -> pd.DataFrame:
    """A line per cell that both rows of a pair of GAINS are in: the AXES, gain of the first over the second paired by
    seed (credit), low, high (see above; nan where no cell has two seeds), seeds, and its verdict: one of GROUND."""
    found = pooled(paired(frame, pair, column).reset_index(), AXES)
    found["verdict"] = [verdict(x) for x in found.itertuples()]
    return found


def paired(frame: pd.DataFrame, pair: tuple[str, str], column: str = "value") -> pd.Series:
    """The gain of a pair's first row over its second (credit) at every one of AXES and seed that both are in; where
    neither learns from pairs, at the larger number of them alone."""
    frame = frame if any(map(learned, pair)) else frame[frame.pairs == max(PAIRS)]
    both = [frame[frame.method == m].set_index([*AXES, "seed"])[column] for m in pair]
    return (both[0] - both[1]).dropna().rename("gain")


def verdict(cell) -> str:
    """One of GROUND for a gain with its interval, low to high."""
    if cell.low > 0 or cell.high < 0:
        return "ahead" if cell.low > 0 else "behind"
    return "level" if abs(cell.gain) < LEVEL else "leans ahead" if cell.gain > 0 else "leans behind"


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """In how many cells each of GAINS is ahead, level, behind."""
    rows = []
    for title, pair in GAINS.items():
        verdicts = gains(frame, pair).verdict
        rows.append({"gain": title} | {name: int((verdicts == name).sum()) for name in GROUND})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean true return over seeds (credit) of every row of the map, a line per cell."""
    by = frame.groupby(["method", *AXES])["value"].mean().unstack("method")
    named = {name: f"{label(name)} (credit)" for name in METHODS_OF_MAP if name in by}
    found = by[list(named)].rename(columns=named).reset_index().rename(columns={"lam": "λ"})
    return found.assign(horizon=found.horizon.map(KINDS))


def foretold(frame: pd.DataFrame) -> pd.DataFrame:
    """Each expectation of the map's page as cells: of how many it speaks, in how many it came (means over seeds), and,
    where the other side of zero would have been as likely, the chance that a coin does as well or better. Cells of
    which a run is missing are left out."""
    grid = pd.MultiIndex.from_tuples(GRID, names=AXES)
    mean, paid = (
        frame.groupby(["method", *AXES])[column].mean().unstack("method").reindex(grid).reindex(columns=METHODS_OF_MAP)
        for column in ("value", "regularised")
    )
    lead = mean[["oracle-dense", "token", "segment"]].sub(mean["bandit"], axis=0)
    alone = mean.xs(max(PAIRS), level="pairs")  # of what learns from no pairs, each run once
    truth, once = mean["oracle-dense"], mean["bandit"].xs(1.0, level="lam")
    rewards = ("bandit", "token", "segment")
    told = [("1. truth in time above SFT", alone["oracle-dense"] - alone["sft"], 0.0)]
    told += [(f"1. truth in time not below: {label(m)}", truth - mean[m], -LEVEL) for m in rewards]
    told += [(f"1. the same less the KL penalty: {label(m)}", paid["oracle-dense"] - paid[m], -LEVEL) for m in rewards]
    told += [(f"2. more pairs no worse: {label(m)}", _change(mean[m], "pairs"), -LEVEL) for m in rewards]
    segment = {price: lead["segment"].xs(price, level="price") for price in PRICES}
    told += [(f"3. segments behind at {price:g}".replace("-", "−"), -segment[price], 0.0) for price in (-1.0, -0.2)]
    told += [("3. segments ahead at +0.2", segment[0.2], 0.0)]
    told += [("4. tokens level or behind", -lead["token"], -LEVEL)]
    told += [("4. tokens further behind with fewer pairs", _change(lead["token"], "pairs"), 0.0)]
    told += [("5. truth's lead larger for two kinds", _change(lead["oracle-dense"], "horizon"), 0.0)]
    told += [("5. truth's lead larger with fewer pairs", -_change(lead["oracle-dense"], "pairs"), 0.0)]
    told += [("6. truth in time better at λ 0.8", -_change(alone["oracle-dense"], "lam"), 0.0)]
    told += [
        (f"6. at λ 0.8 not above the bandit at 1: {label(m)}", once - mean[m].xs(0.8, level="lam"), -LEVEL)
        for m in ("token", "segment")
    ]
    dense = alone["oracle-dense"] - alone["oracle-sequence"]
    told += [
        ("7. at λ 1 the truths are level on average", pd.Series([-abs(dense.xs(1.0, level="lam").mean())]), -LEVEL),
        ("7. truth at the end above the bandit at λ 1", mean["oracle-sequence"].xs(1.0, level="lam") - once, 0.0),
        ("8. at λ 0.8 truth in time above truth at the end", dense.xs(0.8, level="lam"), 0.0),
        ("8. by more for two kinds", _change(dense.xs(0.8, level="lam"), "horizon"), 0.0),
        ("8. truth at the end worse at λ 0.8", _change(alone["oracle-sequence"], "lam"), 0.0),
    ]
    found = []
    for text, gap, least in told:
        gap = gap.dropna()
        came = int((gap > least).sum())
        coin = scipy.stats.binom.sf(came - 1, len(gap), 0.5) if len(gap) and least == 0 else np.nan
        found.append({"foretold": text, "cells": len(gap), "came": came, "chance by a coin": p_text(coin)})
    return pd.DataFrame(found)


def _change(column: pd.Series, axis: str) -> pd.Series:
    """The column at the higher value of an axis less that at the lower, by the other axes."""
    levels = sorted(set(column.index.get_level_values(axis)))
    return column.xs(levels[-1], level=axis) - column.xs(levels[0], level=axis)


def word(axis: str, level: float) -> str:
    """A level of an axis as figures and tables have it."""
    return KINDS[level] if axis == "horizon" else signed(level, "g") if axis == "price" else f"{level:,g}"


def signed(credit: float, how: str = "") -> str:
    """Credit with its sign; two decimals, one from ten on, or as the format `how` says."""
    how = how or (".1f" if abs(credit) >= 10 else ".2f")
    return f"{credit:+{how}}".replace("-", "−") if credit else "0"


def figure(frame: pd.DataFrame, column: str = "value") -> tuple[Figure, pd.DataFrame]:
    """One of PANELS each, its gain in `column` (credit) in every cell: prices across; horizon, pairs and lambda down.
    Bold where the interval is clear of zero; empty where a run is missing. What learns from no pairs is written at
    every number of them."""
    figure, axes = canvas(2, 2, 3.4, sharey=True, sharex=True)
    rows, numbers = list(itertools.product(range(1, len(HORIZONS) + 1), PAIRS, LAMBDAS)), []
    for ax, (title, pair) in zip(axes.T.flat, PANELS.items()):
        found = gains(frame, pair, column)
        numbers.append(found.assign(gain_of=title))
        for cell in found.itertuples():
            for pairs in [cell.pairs] if any(map(learned, pair)) else PAIRS:
                x, y = PRICES.index(cell.price), rows.index((cell.horizon, pairs, cell.lam))
                ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=GROUND[cell.verdict], linewidth=0))
                weight = "bold" if cell.verdict in ("ahead", "behind") else "normal"
                ax.text(x, y, signed(cell.gain), ha="center", va="center", fontsize=8, color="#1b1b1b", weight=weight)
        ax.set_title(title, loc="left")
        ax.set_xticks(range(len(PRICES)), [word("price", price) for price in PRICES])
        ax.set_xlim(-0.5, len(PRICES) - 0.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(False)
        ax.tick_params(length=0)
        ax.axhline(len(rows) / 2 - 0.5, color="#444444", linewidth=1)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("price of an item too many (credit)")
    for ax in axes[:, 0]:
        ax.set_yticks(range(len(rows)), [f"{KINDS[h]}, {pairs:,} pairs, λ {lam:g}" for h, pairs, lam in rows])
    patches = [Patch(facecolor=ground, label=name) for name, ground in GROUND.items()]
    figure.legend(handles=patches, loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    return figure, pd.concat(numbers)
