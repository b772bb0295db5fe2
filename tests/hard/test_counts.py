"""What the book says of faults is what was counted."""

from report.notebooks import ROOT
from study.records import read_records

RECORDS, PAGE = ROOT / "data" / "results" / "hardening.jsonl", ROOT / "book" / "hard_to_break.md"


def test_the_page_has_every_count_and_no_other():
    records, page = read_records(RECORDS), PAGE.read_text()
    rows = [f"| {r['fault']} | {r['tried']:,} | {r['ended']} |" for r in records]
    shown = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    table = shown[: len(rows)]
    assert table == rows, "the table would be:\n" + "\n".join(rows)
    kills = sum(r["tried"] for r in records if r["fault"].startswith("kill -9"))
    bad = sum(r["tried"] for r in records if r["fault"].startswith("bad inputs"))
    assert f"{kills} kills" in page and f"{bad:,} bad inputs" in page and kills >= 50 and bad >= 200
    assert not any(r["provenance"]["dirty"] for r in records), "counted with code that no commit has"
