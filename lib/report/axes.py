"""The map's cells by any two of its axes, the others held or averaged over: `book/_static/axes.js` lets readers choose.

Every gain and interval is computed here, as many as can be asked for; the script only shows them. Without script
nothing is shown: the map's figure and its table have the cells. An average is taken seed by seed, so that what a seed
does to all cells alike is in its spread; that is pooled over averages, each in units of the size of its own gains."""

import html
import itertools
import json
import math

import numpy as np
import pandas as pd
import scipy

from report.density_map import AXES, GAINS, GROUND, LEVELS, gains, paired, signed, verdict, word
from report.look import variable
from study.density_cells import PAIRS, learned
from study.summary import POOLED

TITLES = {"horizon": "horizon", "pairs": "preference pairs", "lam": "λ of GAE"}
TITLES |= {"price": "price of an item too many (credit)"}


def averages(frame: pd.DataFrame, pair: tuple[str, str], over: tuple[str, ...]) -> pd.DataFrame:
    """As `density_map.gains`, averaged in credit over the axes `over`, of seeds that have all their cells. A gain's
    unit is sqrt(gain^2 + POOLED^2), by which the map's asinh scale is locally divided; an average's, their root mean
    square."""
    axes = [axis for axis in AXES if axis not in over]
    cells = paired(frame, pair).to_frame()
    cells["square"] = cells.groupby(AXES).gain.transform("mean") ** 2 + POOLED**2
    by = cells.groupby([*axes, "seed"])
    levels = LEVELS if any(map(learned, pair)) else LEVELS | {"pairs": PAIRS[:1]}
    seeds = by.mean()[by.size() == math.prod(len(levels[axis]) for axis in over)]
    by = seeds.groupby(axes)
    found = by.mean().assign(seeds=by.size())
    free = int((found.seeds - 1).sum())
    spread = np.sqrt(((seeds.gain - by.gain.transform("mean")) ** 2 / seeds.square).sum() / free) if free else np.nan
    half = scipy.stats.t.ppf(0.975, free) * spread * np.sqrt(found.square / found.seeds) if free else np.nan
    found["low"], found["high"] = found.gain - half, found.gain + half
    found["verdict"] = [verdict(x) for x in found.itertuples()]
    return found.reset_index().drop(columns="square")


def cells(frame: pd.DataFrame) -> list[list]:
    """Every cell of every choice: the gain's place in GAINS, the level's place on each of AXES (-1: averaged over);
    gain, low and high as text (credit; empty where no cell has two seeds); the verdict's place in GROUND."""
    found, verdicts = [], list(GROUND)
    for (i, pair), count in itertools.product(enumerate(GAINS.values()), range(len(AXES) - 1)):
        for over in itertools.combinations(AXES, count):
            lines = averages(frame, pair, over) if over else gains(frame, pair)
            for cell in lines.to_dict("records"):
                said = ["" if np.isnan(cell[name]) else signed(cell[name]) for name in ("gain", "low", "high")]
                for pairs in [cell.get("pairs")] if "pairs" in over or any(map(learned, pair)) else PAIRS:
                    at = [-1 if axis in over else LEVELS[axis].index((cell | {"pairs": pairs})[axis]) for axis in AXES]
                    found.append([i, *at, *said, verdicts.index(cell["verdict"])])
    return found


def chooser(frame: pd.DataFrame) -> str:
    """The map as HTML that `axes.js` makes choosable, hidden until then."""
    told = {
        "rows": list(GAINS),
        "axes": [[TITLES[axis], [word(axis, level) for level in LEVELS[axis]]] for axis in AXES],
        "grounds": [[name, variable(colour)] for name, colour in GROUND.items()],
        "cells": cells(frame),
    }
    data = html.escape(json.dumps(told, ensure_ascii=False, separators=(",", ":")))
    ink = f"color:{variable('#1b1b1b')};background:"
    key = " ".join(f'<span style="{ink}{variable(colour)}">{name}</span>' for name, colour in GROUND.items())
    return f'<div class="axes" data-map="{data}" hidden><p class="key">{key}</p></div>'
