"""What would break: a table of equal losses that leaves a trainer out, or shows one that is not equal."""

import ast

from report import engines
from report.notebooks import ROOT
from study.records import read_records

RECORDS = read_records(ROOT / "data" / "results" / "engines.jsonl")


def test_every_trainer_and_every_engine_is_in_the_records_below_what_the_page_allows():
    tree = ast.parse((ROOT / "tests/dist/test_trainers.py").read_text())
    lists = {ast.unparse(x.targets[0]): x.value for x in tree.body if isinstance(x, ast.Assign)}
    compared = [x for name in ("PLAIN", "SAMPLING") for x in lists[name].func.value.value.split()]
    assert sorted(engines.NAMES) == sorted(compared)
    found = engines.newest(RECORDS)
    assert set(found) == {(trainer, engine) for trainer in compared for engine in engines.ENGINES}
    assert all(0 <= r["loss"] < engines.MOST for r in found.values())
    assert all(r["processes"] == 2 and r["updates"] > 1 and r["provenance"]["dirty"] is False for r in found.values())
    assert {*engines.ENGINES} <= {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def test_the_page_counts_what_the_table_shows():
    page = (ROOT / "book" / "scale.md").read_text()
    words = {20: "Twenty"}
    assert f"{words[len(engines.table(RECORDS))]} trainers learn on two processes" in page
    row = {"trainer": "sft", "engine": "ddp", "loss": 0.5, "weight": 0.25, "updates": 3, "provenance": {"utc": "z"}}
    worse = engines.verdict([*RECORDS, row])
    assert "5.0e-01 (SFT under DDP)" in worse and "5.0e-01" in engines.table([*RECORDS, row]).to_string()
