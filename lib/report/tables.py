"""The papers' printed tables beside ours: what our records say of the rows that `published_rows.py` maps.

Their numbers are a judge's and ours are true returns, of other models: only order and sign can be compared.
`ranks` and `kendall` compare orders, `contrasts` the sign of each difference. A row that no record has stays, with
dashes. `paper` is segment-ppo unless given. Left out: corrections for many comparisons.
"""

import numpy as np
import pandas as pd
import scipy  # its parts load when they are used

from densereward.seeding import rng
from report import controlled
from report.controlled import KL
from report.published_rows import FIGURE_3, LENGTH, MAIN, ROWS, printed
from study import effort, summary
from study.identity import as_listed
from study.methods import METHODS
from study.records import latest
from study.stats import mean_interval, paired_contrast

LENGTHS = ("length-10", "length-13", "length-17", "length-22")  # Figure 3 by its segment lengths
# where the paper and its released code, or this study, disagree
DEPARTURES = ("ols", "unfloored", "fit-released", "eos-released", "loss-released")
FOLLOWED = {  # rows that do what released code, or a reading of a paper, does, and the rows that they change
    **dict.fromkeys(DEPARTURES, "segment"),
    **dict.fromkeys(("normaliser-none-literal", "normaliser-none-head"), "normaliser-none"),
    **dict.fromkeys(("tlcr-double-softmax", "tlcr-shifted", "tlcr-released"), "tlcr"),
    "tlcr-fixed-double-softmax": "tlcr-fixed",
}
RETURN = "final.true_return"
SEVERAL = 6  # methods that a rank correlation needs
SIGNS = {  # of a difference here against the printed one
    "same": "the printed sign, clear of zero",
    "opposite": "the opposite sign, clear of zero",
    "open": "an interval that holds zero",
    "same, one seed": "the printed sign on one seed",
    "opposite, one seed": "the opposite sign on one seed",
    "no record": "no record",
}


def alike(records: list[dict], tuned: bool = False) -> list[dict]:
    """The comparison's runs (`summary.study`) and, of methods that it lacks, those at its settings, the newest of each
    method and seed, all as `methods.py` lists them: the `runs` that the functions below take."""
    base = summary.study(records, tuned)
    if not base:
        return []
    others = [r for r in records if r["kind"] == "run" and r["method"] not in {b["method"] for b in base}]
    chosen = base + latest([r for r in others if summary.setting(r) == summary.setting(base[0])], ("method", "seed"))
    return [r for r in chosen if r["method"] in METHODS and as_listed(r["params"])]


def sweep(records: list[dict], x: str, x_text: str, names: dict[str, str]) -> pd.DataFrame:
    """A line per method and level of a setting (dotted `x`, headed `x_text`): seeds, and the mean over them of every
    measurement of `names`, dotted name to heading."""
    frame = summary.to_frame(records)[["method", x, "seed", *names]]
    found = frame.groupby(["method", x]).agg({"seed": "nunique"} | dict.fromkeys(names, "mean")).reset_index()
    found = found.sort_values(["method", x], key=lambda c: c.map(summary.order(c).index) if c.name == "method" else c)
    return found.assign(method=found.method.map(summary.label)).rename(columns={x: x_text, "seed": "seeds"} | names)


def sizes(of: dict[str, list[dict]]) -> pd.DataFrame:
    """A line per method that several groups of runs hold, by the group's heading: the final true return with its 95%
    t interval, and seeds."""
    columns = []
    for heading, runs in of.items():
        if not runs:
            continue
        found = summary.intervals(summary.values(runs, RETURN), ["method"]).set_index("method")
        texts = [summary.interval_text(row.mean, row.low, row.high, seeds=row.seeds) for row in found.itertuples()]
        heads = {f"{heading}, true return (credit)": texts, f"seeds, {heading}": found.seeds}
        columns.append(pd.DataFrame(heads, index=found.index))
    both = pd.concat(columns, axis=1, join="inner")
    both = both.loc[summary.order(both.index), sorted(both, key=lambda head: head.startswith("seeds"))]
    return both.rename(index=summary.label).rename_axis("method").reset_index()


def wages(records: list[dict]) -> pd.DataFrame:
    """What a segment earns (`wage_records.py`): a line per seed, a column per row, with 95% intervals."""
    made = sorted(records, key=lambda r: r["seed"])
    texts = [{summary.label(m): summary.interval_text(*x, 3) for m, x in r["earned"].items()} for r in made]
    return pd.DataFrame(texts, index=pd.Index([str(r["seed"]) for r in made], name="seed")).reset_index()


def fidelity_parts(records: list[dict]) -> pd.DataFrame:
    """What fidelity at lambda 1 is made of (`fidelity_records.py`): a line per row, the highest sum first, means over
    seeds, of the sum and its two large parts with 95% t intervals; seeds."""
    heads = {
        "own": "paid on the span, from its decision on",
        "later": "paid behind it",
        "values": "the critic's value, taken off",
        "pearson": "together",
        "own_pearson": "correlation of the first alone",
        "own_deviation": "deviation of the first (over the advantage's)",
    }
    lines, frame = [], pd.DataFrame([r["parts"] | {"method": r["method"]} for r in latest(records, ("method", "seed"))])
    for name, parts in sorted(frame.groupby("method"), key=lambda group: -group[1].pearson.mean()):
        exact = {part: summary.interval_text(*mean_interval(parts[part])) for part in ("own", "later", "pearson")}
        found = {part: f"{parts[part].mean():z.2f}" for part in heads} | exact
        lines.append({"method": summary.label(name)} | {heads[part]: x for part, x in found.items()})
        lines[-1]["seeds"] = len(parts)
    return pd.DataFrame(lines)


def followed(runs: list[dict]) -> pd.DataFrame:
    """A line per row of `FOLLOWED` that shares a seed with the row it changes: final true return (credit) less that
    row's, paired by seed, with its 95% t interval; where that row ends; seeds."""
    ended = {m: part.set_index("seed")["value"] for m, part in summary.values(runs, RETURN).groupby("method")}
    rows = []
    for name, plain in FOLLOWED.items():
        if name in ended and plain in ended and (shared := sorted(ended[name].index.intersection(ended[plain].index))):
            gap = paired_contrast(ended[name][shared], ended[plain][shared])
            line = {"row": f"{summary.label(name)} ({name})", "less": summary.label(plain)}
            line |= {"difference (credit)": gap["difference"], "low": gap["low"], "high": gap["high"]}
            rows.append(line | {"the latter ends at (credit)": ended[plain][shared].mean(), "seeds": gap["seeds"]})
    return pd.DataFrame(rows)


def _of(runs: list[dict], methods) -> list[dict]:
    return [r for r in runs if r["method"] in set(methods)]


def ours(runs: list[dict], methods) -> pd.DataFrame:
    """By method, in the order given: mean, low, high of the final true return over seeds, seeds (0 where there is no
    record), mean length (tokens), and the same of the true return in training at a KL of `KL` nats (at_mean, ...,
    at_seeds: those that reach it)."""
    methods = list(dict.fromkeys(methods))
    runs = _of(runs, methods)
    found = summary.intervals(summary.values(runs, RETURN), ["method"]).set_index("method").reindex(methods)
    found["length"] = summary.values(runs, "final.length").groupby("method")["value"].mean()
    trained = [r for r in runs if "curves" in r]
    at = controlled.matched_kl(trained, KL).set_index("method") if trained else found.iloc[:0]
    at = at[["mean", "low", "high", "seeds"]].reindex(map(summary.label, methods)).set_axis(methods)
    found = found.join(at.add_prefix("at_")).astype(float)
    return found.assign(**{name: found[name].fillna(0).astype(int) for name in ("seeds", "at_seeds")})


def rows(runs: list[dict], methods) -> pd.DataFrame:
    """Our side of a table, a line for each of `methods`: intervals are t over seeds; at matched KL, how many runs
    reached it where not all did."""
    lines = []
    for row in ours(runs, methods).itertuples():
        at = summary.interval_text(row.at_mean, row.at_low, row.at_high, seeds=row.at_seeds) if row.at_seeds else None
        reached = f" ({row.at_seeds} of {row.seeds})" if 0 < row.at_seeds < row.seeds else ""
        ended = summary.interval_text(row.mean, row.low, row.high, seeds=row.seeds) if row.seeds else None
        lines.append(
            {
                "here": summary.label(row.Index),
                "true return (credit)": ended,
                "length (tokens)": f"{row.length:.1f}" if row.seeds else None,
                f"at KL {KL:g} nats (credit)": at and at + reached,
                "seeds": str(row.seeds),
            }
        )
    return pd.DataFrame(lines)


def spent(runs: list[dict], methods) -> pd.DataFrame:
    """What stands beside `rows`: KL to the SFT model with its t interval, and means over seeds of what was used
    (`effort.recorded`, `effort.updates`). A line for each of `methods`; one without a record has dashes."""
    kl = summary.intervals(summary.values(_of(runs, methods), "final.kl"), ["method"]).set_index("method")
    names = {
        "preference_labels": "preference labels (pairs)",
        "revisions": "revisions (answers)",
        "tokens": "sampled in training (tokens)",
        "updates": "updates of the policy",
    }
    lines = []
    for method in dict.fromkeys(methods):
        spent_by = [effort.recorded(r) | {"updates": effort.updates(r)} for r in _of(runs, (method,))]
        used = pd.DataFrame(spent_by, columns=list(names)).mean()
        row = kl.loc[method] if method in kl.index else None
        moved = None if row is None else summary.interval_text(row["mean"], row.low, row.high, seeds=row.seeds)
        counts = {text: None if np.isnan(used[name]) else f"{used[name]:,.0f}" for name, text in names.items()}
        lines.append({"here": summary.label(method), "KL (nats per response)": moved} | counts)
    return pd.DataFrame(lines)


def beside(runs: list[dict], table: int, paper: str = "segment-ppo") -> pd.DataFrame:
    """A line for each printed row: its value in the main column (`MAIN`) and its length, as printed, and `rows` of
    the method that it is here. Raises ValueError as `printed`."""
    cells = printed(table, paper)
    methods = [ROWS[paper][table][row] for row in cells.index]
    columns = [c for c in (MAIN[paper].get(table), LENGTH[paper].get(table)) if c]
    here = rows(runs, methods).set_axis(dict.fromkeys(methods)).loc[methods].reset_index(drop=True)
    return pd.concat([cells[columns].rename_axis("in the paper").reset_index(), here], axis=1)


def drawn(runs: list[dict], table: int, paper: str = "segment-ppo") -> list[dict]:
    """The table's runs, and the printed main column as records of their own (`paper.main`), for figures of dots."""
    values = _values(paper, table, MAIN[paper][table])
    return _of(runs, values.index) + [
        {"method": method, "seed": -1, "paper": {"main": value}} for method, value in values.items()
    ]


def _values(paper: str, table: int, column: str) -> pd.Series:
    """A printed column by method. Raises ValueError for a column that is not printed, or rows of several backbones."""
    cells, methods = printed(table, paper), list(ROWS[paper][table].values())
    if len(set(methods)) < len(methods):
        raise ValueError(f"{paper}'s table {table} prints a method on several backbones: use contrasts")
    if column not in cells:
        raise ValueError(f"{paper}'s table {table} has no column {column!r}; choose one of {', '.join(cells)}")
    return cells[column].astype(float).set_axis([ROWS[paper][table][row] for row in cells.index])


def ranks(runs: list[dict], table: int) -> pd.DataFrame:
    """By method of a table of segment-ppo: rank by the main printed column of all rows, and by our mean true return,
    final and at matched KL, of those that have one (nan else); 1 is the highest."""
    values = _values("segment-ppo", table, MAIN["segment-ppo"][table])
    here = ours(runs, values.index)
    columns = {"paper": values, "here": here["mean"], f"here, at KL {KL:g}": here["at_mean"]}
    return pd.DataFrame(columns).rank(ascending=False, method="min")


def kendall(
    runs: list[dict], table: int, column: str | pd.Series, name: str = RETURN, paper: str = "segment-ppo"
) -> dict:
    """Kendall's tau-b between a printed column (or numbers of one's own, by method) and our means over seeds of the
    dotted `name`: tau, low, high, p, rows (that have records; with fewer than six the rest is nan).

    p: two-sided, over all permutations of the rows. low, high: 95% percentile bootstrap over the seeds that all rows
    share, resampled jointly, where these are three or more; three seeds have ten distinct resamples, so it is too
    narrow. Raises ValueError for a table of fewer than six methods, or a column that is not printed."""
    values = _values(paper, table, column) if isinstance(column, str) else column
    if len(values) < SEVERAL:
        raise ValueError(f"table {table} has {len(values)} methods, a rank correlation needs {SEVERAL}: use contrasts")
    long = summary.values(_of(runs, values.index), name)
    wide = long.pivot(index="method", columns="seed", values="value").reindex(values.index).dropna(how="all")
    found = {"tau": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "rows": len(wide)}
    if len(wide) < SEVERAL:
        return found
    x, y = values[wide.index].to_numpy(), wide.mean(axis=1).to_numpy()
    order = np.sign(y[:, None] - y)  # [rows, rows]

    def concordance(x, axis):  # tau-b but for a factor that no permutation changes; x [..., rows]  # noqa: ARG001
        return (np.sign(x[..., :, None] - x[..., None, :]) * order).sum((-1, -2))

    found["tau"] = scipy.stats.kendalltau(x, y).statistic
    found["p"] = scipy.stats.permutation_test((x,), concordance, permutation_type="pairings", vectorized=True).pvalue
    shared = wide.dropna(axis=1).to_numpy()  # [rows, seeds]
    if shared.shape[1] >= 3:
        draws = rng(0, "kendall").integers(shared.shape[1], size=(1000, shared.shape[1]))
        taus = [scipy.stats.kendalltau(x, shared[:, seeds].mean(axis=1)).statistic for seeds in draws]
        found["low"], found["high"] = np.quantile(taus, (0.025, 0.975))
    return found


def contrasts(
    runs: list[dict], table: int, against: str = "segment", name: str = RETURN, paper: str = "segment-ppo"
) -> pd.DataFrame:
    """Each printed row minus the row of `against` (on the same backbone): in the paper, and here (`summary.contrasts`,
    paired by seed), with one of `SIGNS`, or nan where nothing is printed. For "final.length" the printed column is the
    length, else the main one. Raises ValueError when the table has no such row or no such column."""
    column, cells = (LENGTH if name == "final.length" else MAIN)[paper].get(table), printed(table, paper)
    methods = ROWS[paper][table]
    bases = {row.rpartition(" / ")[0]: row for row, method in methods.items() if method == against}
    if not bases or (column is None and table != FIGURE_3):
        raise ValueError(f"table {table} has no row of {against!r}, or no printed column beside {name}")
    values = cells[column].astype(float) if column else pd.Series(np.nan, cells.index)
    here = summary.contrasts(_of(runs, methods.values()), name, against).set_index("method")
    lines = []
    for row in [row for row in cells.index if methods[row] != against]:
        label = summary.label(methods[row])
        line = {"row": row, "here": label, "paper": values[row] - values[bases[row.rpartition(" / ")[0]]]}
        line |= dict(here.loc[label]) if label in here.index else dict.fromkeys(here.columns, np.nan) | {"seeds": 0}
        lines.append(line | {"sign": _sign(line)})
    frame = pd.DataFrame(lines).astype({"seeds": int, "wins": object})
    frame = frame.assign(wins=frame.wins.where(frame.seeds == 0, frame.wins.fillna(0).astype(int)))
    return frame[[*frame.columns.drop(["seeds", "wins"]), "seeds", "wins"]]


def _sign(line: dict) -> str | float:
    if not line["seeds"]:
        return "no record"
    if np.isnan(line["paper"]) or line["paper"] == 0:
        return np.nan
    if line["seeds"] > 1 and line["low"] <= 0 <= line["high"]:
        return "open"
    sign = "same" if line["difference"] * line["paper"] > 0 else "opposite"
    return sign if line["seeds"] > 1 else f"{sign}, one seed"


def verdicts(runs: list[dict], tables) -> pd.DataFrame:
    """How the printed differences from `segment` fare here: a line per table, how many of each of `SIGNS`."""
    counts = {f"Table {table}": contrasts(runs, table).sign.value_counts() for table in tables}
    frame = pd.DataFrame(counts).reindex(SIGNS).fillna(0).astype(int).T
    frame = frame[[sign for i, sign in enumerate(SIGNS) if i < 3 or frame[sign].any()]]
    return frame.rename(columns=SIGNS).rename_axis("differences from segment").rename_axis(columns=None).reset_index()


def verdict(frame: pd.DataFrame) -> str:
    """A sentence that counts the signs of `contrasts`."""
    counts = {words: (frame.sign == sign).sum() for sign, words in SIGNS.items()}
    told = [f"{n} {'has' if n == 1 else 'have'} {words}" for words, n in counts.items() if n]
    return f"Of {len(frame)} printed differences {'; '.join(told)}."
