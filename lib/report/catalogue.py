"""Every row of `methods.py` in words, with how many seeds the records hold: the book's page of methods.

Made from `METHODS` whenever the page is, so that it cannot go stale. Left out: value clipping, and what a row leaves at
its default, but for the parts that every row has.
"""

from collections import defaultdict
from dataclasses import asdict

import pandas as pd

from report import tables
from study.methods import METHODS, Method

SAID = """name label source scorer segmentation revisions trained_with aggregate scores normaliser correction
    interpolation shaping trainer options value_clip noise""".split()  # what `_line` puts in words; others where set


def catalogue(records: list[dict]) -> pd.DataFrame:
    """A line for each row of `METHODS`, in its order: name, label, source, scorer, segmentation, normaliser, trainer,
    seeds (recorded at the settings of the comparison, as the row is listed)."""
    seeds = defaultdict(set)
    for r in tables.alike(records):
        seeds[r["method"]].add(r["seed"])
    found = pd.DataFrame([_line(row) for row in METHODS.values()])
    found.insert(2, "seeds", [len(seeds[name]) for name in METHODS])
    return found


def words(part: dict) -> str:
    """A part of a row, its `kind` first: "entropy, cutoff 1.75"."""
    rest = [
        f"{name} {words(value) if isinstance(value, dict) else value}" for name, value in part.items() if name != "kind"
    ]
    return ", ".join([*([part["kind"]] if "kind" in part else []), *rest])


def _line(row: Method) -> dict[str, str]:
    trains = row.trainer != "none"
    scored = trains and row.scorer != "none"
    scorer = row.scorer + (f", noise {row.noise:g}" if row.noise else "")
    scorer += ", sum over segments" if row.aggregate == "sum" else ""
    if row.trained_with:
        scorer += f", trained with {words(row.trained_with)}"
    scorer += ", read as e(x, y)" if row.scores == "evaluator" else ""
    if row.revisions:
        scorer += f", revisions: {words(row.revisions)}"
    spread = {"none": "", "next": ", paid at the next token"}.get(
        row.interpolation, f", {row.interpolation} over tokens"
    )
    centred = "" if row.correction["kind"] == "none" else f", then {words(row.correction)}"
    plain = asdict(Method("", "", ""))
    more = [
        f"{name} {words(x) if isinstance(x, dict) else x}"
        for name, x in asdict(row).items()
        if name not in SAID and x != plain[name]
    ]
    trainer = ", ".join([row.trainer, *([words(row.options)] if row.options else []), *more])
    shaping = "" if row.shaping["kind"] == "none" else f", shaped by {words(row.shaping)}"
    return {
        "name": row.name,
        "label": row.label,
        "source": row.source.replace("`", ""),
        "scorer": scorer,
        "segmentation": words(row.segmentation) + spread if scored else "-",
        "normaliser": words(row.normaliser) + centred if scored else "-",
        "trainer": trainer + shaping,
    }
