"""The table of speed: what `make bench` and `make gpu` measured (`benchmarks/`), against marks set before."""

import pandas as pd

from study.records import latest

MARKS = {"most": "at most", "least": "at least"}


def newest(records: list[dict]) -> list[dict]:
    """The newest record of each ratio on each machine's size, in the order in which they were first measured; none of a
    ratio that its part, measured since by other code, no longer has."""
    last = {(r["part"], r["size"]): r["provenance"]["commit"] for r in records}
    records = [r for r in records if r["provenance"]["commit"] == last[r["part"], r["size"]]]
    found = {(r["what"], r["size"]): r for r in latest(records, ("what", "size"))}
    return [found[key] for key in dict.fromkeys((r["what"], r["size"]) for r in records)]


def met(record: dict) -> bool | None:
    """Whether the median meets the mark; None without one."""
    if record["mark"] is None:
        return None
    kind, mark = record["mark"]
    return record["median"] <= mark if kind == "most" else record["median"] >= mark


def table(records: list[dict]) -> pd.DataFrame:
    """A row for each ratio: median, least and largest of its turns, its mark, and whether it is met."""
    rows = []
    for r in newest(records):
        spread = "" if r["turns"] == 1 else f"{r['least']:.3g} to {r['largest']:.3g}"
        mark = "" if r["mark"] is None else f"{MARKS[r['mark'][0]]} {r['mark'][1]:g}"
        held = {True: "yes", False: "no", None: ""}[met(r)]
        row = {
            "measured": r["what"],
            "median": f"{r['median']:.3g}",
            "smallest to largest": spread,
            "turns": r["turns"],
        }
        rows.append(row | {"mark": mark, "met": held, "device": r["provenance"]["gpu"] or r["provenance"]["cpu"]})
    return pd.DataFrame(rows)


def verdict(records: list[dict]) -> str:
    """How many marks are met, and which are not."""
    marked = [r for r in newest(records) if r["mark"]]
    missed = [r for r in marked if not met(r)]
    said = "; ".join(r["what"] for r in missed)
    return f"{len(marked) - len(missed)} of {len(marked)} marks are met." + (f" Missed: {said}." if missed else "")
