"""What rows were foretold to end like, against records: verdicts are computed. `data/foretold.yml` was written before
any run of profile `brief`, `data/foretold_seeds.yml` when its first three seeds were known; its head says what else.

    came       ahead, behind: the interval is clear of zero on that side; level: it lies within LEVEL of zero
    opposite   ahead, behind: it is clear on the other side; level: it is clear of LEVEL
    open       neither, or one seed

Two or three seeds say little of their own spread, so it is pooled over the lines of a part (`summary.pooled`).
Left out: a correction for the number of lines; in a hundred of them a few come by luck.
"""

from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from report.tables import alike
from study import choosing, summary
from study.methods import METHODS
from study.records import ROOT
from study.sweeps import ROOM, SPANS, UNWHITENED, WHOLE

FILE = ROOT / "data" / "foretold.yml"
SEEDS = ROOT / "data" / "foretold_seeds.yml"
FIRST = 3  # seeds below are those that the second file could know of
LEVEL = 0.3  # credit
AGAINST = {  # parts that set two settings against each other: what follows the name of the row under each
    "lambda 0.8 against 1": (" at lambda 0.8", " at 1"),
    "lambda 0.95 against 1": (" at lambda 0.95", " at 1"),
    "a quarter of the pairs against all": (", a quarter of the pairs,", ", all pairs"),
    "room to win against one for all": (" with room", " at one setting for all"),
    "random rewards, advantages not whitened": (", not whitened,", ", whitened"),
    "own settings against one for all": (" at its own setting", " at that of all"),
    "room to win at own settings against lambda 1": (" at lambda 0.8", " at 1"),
    "own settings by caution against the proxy's": (" by caution", " by the proxy"),
}
SAYS, VERDICTS = ("ahead", "behind", "level"), ("came", "opposite", "open")


def expected(path: Path = FILE) -> pd.DataFrame:
    """The lines of the file: about (its part), method, says (one of SAYS), other. ValueError naming the line that is
    none."""
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
        lines = [(part, line) for part, lines in parts.items() for line in lines]
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason:.150}); it holds lists of expectations by part") from None
    for part, line in lines:
        good = isinstance(line, list) and len(line) == 3 and all(isinstance(x, str) for x in line)
        if not (good and line[1] in SAYS and {line[0], line[2]} <= METHODS.keys()):
            raise ValueError(f"{path}: {part}: {line!r:.80} is none; give [row, {', '.join(SAYS[:2])} or level, row]")
    return pd.DataFrame([(part, *line) for part, line in lines], columns=["about", "method", "says", "other"])


def verdicts(runs: list[dict], lines: pd.DataFrame | None = None, others: list[dict] | None = None) -> pd.DataFrame:
    """The lines of `expected` whose rows share seeds: difference in final true return (credit; the centre of
    `summary.pooled`, which one seed that collapses does not carry away), low, high, seeds and verdict. The second row
    of a line is read from `others`, where given."""
    lines = expected() if lines is None else lines
    ended, against = _ends(runs), _ends(runs if others is None else others)
    pairs = lines[lines.method.isin(ended.columns) & lines.other.isin(against.columns)]
    gaps = [
        (x.about, x.Index, gap) for x in pairs.itertuples() for gap in (ended[x.method] - against[x.other]).dropna()
    ]
    gaps = pd.DataFrame(gaps, columns=["about", "line", "gain"])
    parts = [summary.pooled(part, ["line"]) for _, part in gaps.groupby("about")] or [summary.pooled(gaps, ["line"])]
    found = lines.join(pd.concat(parts).set_index("line").rename(columns={"centre": "difference"}), how="inner")
    return found.assign(verdict=[_verdict(x) for x in found.itertuples()])


def again(records: list[dict]) -> pd.DataFrame:
    """Verdicts on the lines of the second file: of the comparison's runs from seed FIRST on, and of those with another
    SFT model, a shorter reach, longer answers, fewer pairs or another return, where a part says so against the
    comparison's."""
    lines, runs, own = expected(SEEDS), alike(records), alike(records, tuned=True)
    fewer = otherwise(records, {"pairs": 1_000})
    held = {
        "seeds from 3 on": ([r for r in runs if r["seed"] >= FIRST], None),
        "another SFT model": (otherwise(records, {"sft_rows": 15_000}), None),
        "lambda 0.8 against 1": (otherwise(records, {"lam": 0.8}), runs),
        "lambda 0.95 against 1": (otherwise(records, {"lam": 0.95}), runs),
        "two kinds at once": (otherwise(records, SPANS[1]), None),
        "three kinds at once": (otherwise(records, SPANS[2]), None),
        "four kinds at once": (otherwise(records, SPANS[3]), None),
        "edits at two kinds": (otherwise(records, SPANS[1]), None),
        "edits at three kinds": (otherwise(records, SPANS[2]), None),
        "edits at four kinds": (otherwise(records, SPANS[3]), None),
        "a quarter of the pairs": (fewer, None),
        "a quarter of the pairs against all": (fewer, runs),
        "only the whole counts": (otherwise(records, WHOLE), None),
        "own settings": (own, None),
        "own settings against one for all": (own, runs),
        "own settings by the truth": (best := at_choices(records, "by_truth"), None),
        "room to win at own settings": (short := at_choices(records, "by_truth", lam=ROOM["lam"]), None),
        "room to win at own settings against lambda 1": (short, best),
        "own settings by caution": (careful := at_choices(records, "cautious"), None),
        "own settings by caution against the proxy's": (careful, own),
        "room to win": (room := otherwise(records, ROOM), None),
        "room to win against one for all": (room, runs),
        "random rewards": (runs, None),
        "random rewards, five times the penalty": (otherwise(records, {"kl_coef": 0.5}), runs),
        "random rewards, advantages not whitened": (otherwise(records, UNWHITENED), runs),
        "paid at their ends": ([r for r in runs if r["seed"] >= FIRST], None),
    }
    return pd.concat([verdicts(these, lines[lines.about == part], of) for part, (these, of) in held.items()])


def otherwise(records: list[dict], changes: dict) -> list[dict]:
    """Runs whose profile has these fields (those of its world in a dict of their own), and is the comparison's in all
    else."""
    flat = {name: x for name, x in changes.items() if name != "world"}
    flat |= {f"world.{name}": x for name, x in changes.get("world", {}).items()}
    found = summary.varied(records, tuple(f"params.profile.{name}" for name in flat))

    def value(r: dict, name: str):
        return reduce(lambda part, key: part[key], name.split("."), r["params"]["profile"])

    return [r for r in found if all(value(r, name) == x for name, x in flat.items())]


def at_choices(records: list[dict], by: str, **further) -> list[dict]:
    """Runs of each method with all its trials at the setting that is chosen of them `by` a name of
    `study.choosing.choices`, where PPO trains it with `further` fields of the profile, and of the model that is not
    trained."""
    chosen, own = choosing.choices(records), alike(records, tuned=True)
    runs = [r for r in own if METHODS[r["method"]].trainer == "none"]
    for name, changes in chosen[by].items():
        changes = changes | (further if METHODS[name].trainer == "ppo" else {})
        same = changes == chosen["choices"][name]
        runs += [r for r in (own if same else otherwise(records, changes)) if r["method"] == name]
    return runs


def replicated(runs: list[dict]) -> str:
    """How many differences that were clear of zero on the seeds below FIRST are so on those from FIRST on, a
    sentence."""
    early, late = (verdicts([r for r in runs if (r["seed"] < FIRST) == new]) for new in (True, False))
    both = early.join(late[["low", "high"]].add_suffix(" again"), how="inner")
    side = np.sign(both[["low", "high"]]).sum(axis=1) / 2  # [N], 0: holds zero
    later = np.sign(both[["low again", "high again"]]).sum(axis=1) / 2
    clear, same = side != 0, (side != 0) & (side == later)
    return (
        f"Of {len(both)} lines of the first file with more seeds, {clear.sum()} were clear of zero on the first "
        f"{FIRST}; on the other seeds {same.sum()} of them are clear on the same side, "
        f"{(clear & (later == -side)).sum()} on the other, and the rest are open."
    )


def _ends(runs: list[dict]) -> pd.DataFrame:
    """Final true return (credit), seed by method."""
    return summary.values(runs, "final.true_return").set_index(["method", "seed"])["value"].unstack("method")


def _verdict(line) -> str:
    if line.seeds < 2:
        return "open"
    if line.says == "level":
        within, clear = -LEVEL < line.low and line.high < LEVEL, line.low > LEVEL or line.high < -LEVEL
    else:
        sign = 1 if line.says == "ahead" else -1
        within, clear = min(sign * line.low, sign * line.high) > 0, max(sign * line.low, sign * line.high) < 0
    return "came" if within else "opposite" if clear else "open"


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """How many lines of each part, and of all, have each verdict."""
    table = pd.crosstab(found.about, found.verdict).reindex(columns=VERDICTS, fill_value=0)
    table = table.reindex(found.about.unique())
    table.loc["all"] = table.sum()
    return table.assign(lines=table.sum(axis=1)).rename_axis("about").rename_axis(None, axis=1).reset_index()


def _line(line) -> str:
    """A line in words, with the setting of each row where its part sets two against each other."""
    told = {"ahead": "ahead of", "behind": "behind", "level": "level with"}[line.says]
    one, other = AGAINST.get(line.about, ("", ""))
    return f"{summary.label(line.method)}{one} {told} {summary.label(line.other)}{other}"


def table(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `verdicts` in words, part by part: what came out opposite first, what came last. Intervals are about
    the centre, on the scale of `summary.pooled`."""
    places = {name: i for i, name in enumerate([*found.about.unique(), "opposite", "open", "came"])}
    rows = list(found.sort_values(["about", "verdict"], key=lambda x: x.map(places), kind="stable").itertuples())
    return pd.DataFrame(
        {
            "about": [x.about for x in rows],
            "foretold": [_line(x) for x in rows],
            "verdict": [x.verdict for x in rows],
            "mean difference (credit)": [x.gain for x in rows],
            "centre on an asinh scale (credit)": [summary.interval_text(x.difference, x.low, x.high) for x in rows],
            "seeds": [x.seeds for x in rows],
        }
    )
