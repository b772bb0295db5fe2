"""Where density pays: gains over the bandit in every cell of `study/density_cells.py`'s grid, and what was foretold.

Gains of rows that collapse vary by whole credits, of rows that do not by hundredths. So spread is pooled on a scale
that makes them alike, asinh(gain / SCALE), over all cells of a row; intervals are Student's t there, taken back.

Left out: settings of each cell's own, and interactions of axes beyond what the eye sees in the figure.
"""

import itertools

import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from report.look import canvas
from study.density_cells import HORIZONS, LAMBDAS, METHODS_OF_MAP, PAIRS, PRICES, learned
from study.summary import label

AXES = ["horizon", "pairs", "lam", "price"]
GRID = list(itertools.product(range(1, len(HORIZONS) + 1), PAIRS, LAMBDAS, PRICES))
KINDS = {1: "one kind", 2: "two kinds"}
FINER = ("oracle-dense", "token", "segment")
SCALE, LEVEL = 0.25, 0.1  # credit: where the scale turns from linear to logarithmic; a gain that is not worth a name
GROUND = {"ahead": "#6fafe1", "leans ahead": "#d6e9f8", "level": "#e2e2e2"}
GROUND |= {"leans behind": "#fbe3c6", "behind": "#ea9f51"}


def returns(records: list[dict]) -> pd.DataFrame:
    """method, horizon, pairs, lam, price, seed, value (true return, credit), regularised (the same less the KL penalty,
    in the unit that rewards are paid in: the deviation of SFT answers' returns) of every run of the map; what learns
    from no pairs stands at every number of them. Runs without the SFT model's of their seed have no regularised."""
    rows, units = {}, {}
    for r in records:
        if r["method"] == "sft":
            units[_world(r)] = np.std(r["final"]["answers"]["true_return"])
    for r in records:
        p = r["params"]["profile"]
        every = [p["pairs"]] if learned(r["method"]) else PAIRS
        parts, price, seed = _world(r)
        value, penalty = r["final"]["true_return"], p["kl_coef"] * (r["final"].get("kl") or 0.0)
        for pairs in every:
            key = r["method"], parts, pairs, p["lam"], price, seed
            rows[key] = value, value - penalty * units.get(_world(r), np.nan)
    columns = ["method", *AXES, "seed", "value", "regularised"]
    frame = pd.DataFrame([(*key, *values) for key, values in rows.items()], columns=columns)
    return frame.astype({"value": float, "regularised": float})


def _world(record: dict) -> tuple:
    """What a run's answers are drawn and priced by: kinds at once, price, seed."""
    world = record["params"]["profile"]["world"]
    return world["parts"], float(world["returns"].removeprefix("excess")), record["seed"]


def gains(frame: pd.DataFrame, method: str, column: str = "value") -> pd.DataFrame:
    """A line per cell that both are in: the AXES, gain of `method` over the bandit paired by seed (credit), low, high
    (see above; nan where no cell has two seeds), seeds, and its verdict: one of GROUND."""
    keys = [*AXES, "seed"]
    both = [frame[frame.method == m].set_index(keys)[column] for m in (method, "bandit")]
    seeds = (both[0] - both[1]).dropna().rename("gain").reset_index()
    seeds["scaled"] = np.arcsinh(seeds.gain / SCALE)
    by = seeds.groupby(AXES)
    found = by.agg(gain=("gain", "mean"), scaled=("scaled", "mean"), seeds=("gain", "size")).reset_index()
    free = int((found.seeds - 1).sum())
    spread = np.sqrt(((seeds.scaled - by.scaled.transform("mean")) ** 2).sum() / free) if free else np.nan
    half = scipy.stats.t.ppf(0.975, free) * spread / np.sqrt(found.seeds) if free else np.nan
    found["low"], found["high"] = (SCALE * np.sinh(found.scaled + side * half) for side in (-1, 1))
    found["verdict"] = [_verdict(x) for x in found.itertuples()]
    return found.drop(columns="scaled")


def _verdict(cell) -> str:
    if cell.low > 0 or cell.high < 0:
        return "ahead" if cell.low > 0 else "behind"
    return "level" if abs(cell.gain) < LEVEL else "leans ahead" if cell.gain > 0 else "leans behind"


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """In how many cells each finer reward is ahead of the bandit, level with it, behind it."""
    rows = []
    for method in FINER:
        verdicts = gains(frame, method).verdict
        rows.append({"method": label(method)} | {name: int((verdicts == name).sum()) for name in GROUND})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean true return over seeds (credit) of every row of the map, a line per cell."""
    by = frame.groupby(["method", *AXES])["value"].mean().unstack("method")
    named = {name: f"{label(name)} (credit)" for name in METHODS_OF_MAP if name in by}
    found = by[list(named)].rename(columns=named).reset_index().rename(columns={"lam": "λ"})
    return found.assign(horizon=found.horizon.map(KINDS))


def foretold(frame: pd.DataFrame) -> pd.DataFrame:
    """Each expectation of the map's page as cells: of how many it speaks, in how many it came (means over seeds), and
    the chance that a coin does as well or better. Cells of which a run is missing are left out."""
    mean = frame.groupby(["method", *AXES])["value"].mean().unstack("method")
    mean = mean.reindex(pd.MultiIndex.from_tuples(GRID, names=AXES)).reindex(columns=METHODS_OF_MAP)
    lead = mean[list(FINER)].sub(mean["bandit"], axis=0)
    truth, once = mean["oracle-dense"], mean["bandit"].xs(1.0, level="lam")
    rows = [("1", "truth in time above SFT", (truth > mean["sft"]).where(truth.notna() & mean["sft"].notna()))]
    for name in ("bandit", "token", "segment"):
        rows.append(("1", f"truth in time not below: {label(name)}", _told(truth, mean[name], -LEVEL)))
    paid = frame.groupby(["method", *AXES])["regularised"].mean().unstack("method")
    paid = paid.reindex(mean.index).reindex(columns=METHODS_OF_MAP)
    for name in ("bandit", "token", "segment"):
        text = f"truth in time not below: {label(name)}, less the KL penalty"
        rows.append(("1", text, _told(paid["oracle-dense"], paid[name], -LEVEL)))
    for name in ("bandit", "token", "segment"):
        rows.append(("2", f"{label(name)}: more pairs no worse", _told(*_sides(mean[name], "pairs"), -LEVEL)))
    for price in (-1.0, -0.2, 0.2):
        at = lead["segment"].xs(price, level="price")
        sign = 1 if price > 0 else -1
        text = f"segments {'ahead' if price > 0 else 'behind'} at {price:+g}".replace("-", "−")
        rows.append(("3", text, _told(sign * at, 0 * at, 0)))
    rows.append(("4", "tokens level or behind", _told(-lead["token"], 0 * lead["token"], -LEVEL)))
    rows.append(("4", "tokens further behind with fewer pairs", _told(*_sides(lead["token"], "pairs"), 0)))
    more = _sides(lead["oracle-dense"], "horizon")
    rows.append(("5", "truth's lead larger for two kinds", _told(*more, 0)))
    rows.append(("5", "truth's lead larger with fewer pairs", _told(*_sides(lead["oracle-dense"], "pairs")[::-1], 0)))
    finer, whole = _sides(truth.xs(max(PAIRS), level="pairs"), "lam")[::-1]
    rows.append(("6", "truth in time better at λ 0.8", _told(finer, whole, 0)))
    for name in ("token", "segment"):
        rows.append(
            (
                "6",
                f"{label(name)} at λ 0.8 not above the bandit at 1",
                _told(once, mean[name].xs(0.8, level="lam"), -LEVEL),
            )
        )
    found = []
    for number, text, came in rows:
        came = came.dropna().astype(bool)
        chance = scipy.stats.binom.sf(came.sum() - 1, len(came), 0.5) if len(came) else np.nan
        found.append(
            {"foretold": f"{number}. {text}", "cells": len(came), "came": int(came.sum()), "by a coin": chance}
        )
    return pd.DataFrame(found)


def _sides(column: pd.Series, axis: str) -> tuple[pd.Series, pd.Series]:
    """The column at the higher and at the lower value of an axis, by the other axes."""
    levels = sorted(set(column.index.get_level_values(axis)))
    return tuple(column.xs(level, level=axis) for level in (levels[-1], levels[0]))


def _told(one: pd.Series, other: pd.Series, least: float) -> pd.Series:
    """Whether one less the other is above `least`; nan where either is missing."""
    gap = one - other
    return (gap > least).where(gap.notna())


def figure(frame: pd.DataFrame, column: str = "value") -> tuple[Figure, pd.DataFrame]:
    """A panel for each of FINER, its gain in `column` over the bandit (credit) in every cell: prices across; horizon,
    pairs and lambda down. Bold where the interval is clear of zero; empty where a run is missing."""
    figure, axes = canvas(1, len(FINER), 4.1, sharey=True)
    rows, numbers = list(itertools.product(range(1, len(HORIZONS) + 1), PAIRS, LAMBDAS)), []
    for ax, method in zip(axes[0], FINER):
        found = gains(frame, method, column)
        numbers.append(found.assign(method=method))
        for cell in found.itertuples():
            x, y = PRICES.index(cell.price), rows.index((cell.horizon, cell.pairs, cell.lam))
            ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=GROUND[cell.verdict], linewidth=0))
            weight = "bold" if cell.verdict in ("ahead", "behind") else "normal"
            text = f"{cell.gain:+.{1 if abs(cell.gain) >= 10 else 2}f}".replace("-", "−")
            ax.text(x, y, text, ha="center", va="center", fontsize=8, color="#1b1b1b", weight=weight)
        ax.set_title(f"{label(method)}", loc="left")
        ax.set_xticks(range(len(PRICES)), [f"{price:+g}".replace("-", "−") if price else "0" for price in PRICES])
        ax.set_xlim(-0.5, len(PRICES) - 0.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(False)
        ax.tick_params(length=0)
        ax.axhline(len(rows) / 2 - 0.5, color="#444444", linewidth=1)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    axes[0, len(FINER) // 2].set_xlabel("price of an item too many (credit)")
    axes[0, 0].set_yticks(range(len(rows)), [f"{KINDS[h]}, {pairs:,} pairs, λ {lam:g}" for h, pairs, lam in rows])
    return figure, pd.concat(numbers)
