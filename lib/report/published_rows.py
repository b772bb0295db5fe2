"""Which row of `methods.py` each printed row of the three papers' tables of results is.

`ROWS` maps paper -> table -> printed row -> method; adaptive-mask prints its methods as columns. A paper in `PAPERS` is
mapped whole: every printed row is a method, and every method that names one of its tables is mapped.
Left out: tables of settings (segment-ppo's 8 and 9), and numbers in running text but segment-ppo's cut-offs.
"""

import pandas as pd

from report.published import load_published

PAPERS = ("segment-ppo", "adaptive-mask", "tlcr")  # mapped whole, which tests hold
FIGURE_3 = 0  # segment-ppo's cut-offs stand in running text, which `published` calls table 0; its curves are only drawn
ACROSS = ("adaptive-mask",)  # papers whose methods are columns
SETTINGS = {"segment-ppo": (8, 9)}  # tables without results

_SPACES = {
    "Bandit (Sequence)": "bandit",
    "Sentence": "sentence",
    "Token": "token",
    "Segment (Ours)": "segment",
    "Bandit as Segment": "bandit-as-segment",
    "Segment as Bandit": "segment-as-bandit",
}
_ACTIONS = {row: _SPACES[row] for row in ("Bandit (Sequence)", "Token", "Segment (Ours)")}
_DPO = {"DPO": "dpo", "Segment-PPO (Ours)": "segment"}
_SFT_BACKBONES = ("Phi3.1-mini-SFT", "Llama-3-8B-SFT")  # ours has one backbone, which stands for each of theirs
_SEGMENT_PPO = {
    1: {"Phi3-mini Instruct": "sft", **_SPACES},
    2: {f"{b} / {row}": m for b in _SFT_BACKBONES for row, m in {"Raw Backbone": "sft", **_ACTIONS}.items()},
    3: {f"{b} / {row}": m for b in ("Phi3-mini Instruct", *_SFT_BACKBONES) for row, m in _DPO.items()},
    4: {**{f"n = {n}": f"ngram-{n}" for n in (2, 5, 10, 20)}, "Ours": "segment"},
    5: {
        "No Reward Normalization": "normaliser-none",
        "Global Statistics of All": "normaliser-global",
        "Statistics of the Last Rewards": "normaliser-last",
        "Regression-based (Section 2.3)": "segment",
    },
    6: {
        "No Interpolation": "interpolation-none",
        "Repeat Segment Reward": "interpolation-repeat",
        "Even Split (Section 2.3)": "segment",
    },
    7: {"Phi-Instruct": "sft", **_SPACES},
    FIGURE_3: {"1.5": "cutoff-1.5", "1.75": "segment", "2.0": "cutoff-2", "2.25": "cutoff-2.25"},
}
_ADAPTIVE_MASK = {
    1: {
        "base": "sft",
        "+DPO": "online-dpo",
        "+ADPO(ours)": "adpo",
        "+PPO": "bandit",
        "+APPO(ours)": "appo",
        "+RS": "rs",
        "+ARS(ours)": "ars",
    }
}
_TLCR = {
    1: {
        "SFT": "sft",
        "DPO": "dpo",
        "PPO_seq": "bandit",
        "ReMax": "remax",
        "FIGA": "figa",
        "PPO_synthetic": "bandit-synthetic",
        "TLCR_fixed": "tlcr-fixed",
        "TLCR (ours)": "tlcr",
    }
}
ROWS = {"segment-ppo": _SEGMENT_PPO, "adaptive-mask": _ADAPTIVE_MASK, "tlcr": _TLCR}
MAIN = {  # the printed column that we set ours by
    "segment-ppo": {**dict.fromkeys(range(1, 7), "AlpacaEval 2.0 / LC (%)"), 7: "Average"},
    "adaptive-mask": {1: "AVG"},
    "tlcr": {1: "Overall"},
}
LENGTH = {"segment-ppo": dict.fromkeys((1, 2, 4, 5, 6), "AlpacaEval 2.0 / # char"), "adaptive-mask": {}, "tlcr": {}}


def printed(table: int, paper: str = "segment-ppo") -> pd.DataFrame:
    """The text of a table's cells, a row per method in the paper's order. Raises ValueError for a table without
    results."""
    if table not in ROWS[paper]:
        raise ValueError(f"{paper}'s table {table} has no results; choose one of {', '.join(map(str, ROWS[paper]))}")
    cells = load_published(paper, table)
    if (paper, table) == ("segment-ppo", FIGURE_3):
        cells = cells[cells.row == "Figure 3 / swept entropy cutoff"]
        cells = cells.assign(row=cells.printed, column="entropy cut-off (nats)")
    if paper in ACROSS:
        cells = cells.rename(columns={"row": "column", "column": "row"})
    return cells.pivot(index="row", columns="column", values="printed").loc[cells.row.unique(), cells.column.unique()]


def every() -> pd.DataFrame:
    """A line for each printed row of the papers in `PAPERS`: paper, place, printed row, method."""
    return pd.DataFrame(
        [
            (paper, "Figure 3" if (paper, table) == ("segment-ppo", FIGURE_3) else f"Table {table}", row, method)
            for paper in PAPERS
            for table, rows in ROWS[paper].items()
            for row, method in rows.items()
        ],
        columns=["paper", "place", "printed row", "method"],
    )
