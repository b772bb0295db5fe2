"""What the records cost is counted once, and the page on reproducibility answers every question it names."""

import re

import pytest

from report import compute
from report.notebooks import ROOT


def made(method: str, seed: int, stages: dict | None = None, seconds: float = 0.0, **made_with) -> dict:
    origin = {"seconds": seconds, "commit": "c0ffee", "gpu": None, "packages": {"torch": "2"}} | made_with
    return {"method": method, "seed": seed, "provenance": origin} | ({"stage_seconds": stages} if stages else {})


def test_a_stage_that_rows_share_is_counted_once_and_a_process_without_stages_whole():
    files = {
        "a": [made("bandit", 0, {"sft": 1800.0, "ppo": 900.0}), made("token", 0, {"sft": 1800.0, "ppo": 901.0})],
        "b": [made("sft", 1, seconds=3600.0, gpu="H100"), made("sft", 1, seconds=3600.0, peak_rss_mib=2048)],
    }
    found = compute.hours(files).set_index("file")
    assert found["hours of one thread"].to_dict() == pytest.approx({"a": 3601 / 3600, "b": 2.0, "all": 3601 / 3600 + 2})
    assert found["each run alone"]["all"] == pytest.approx(5401 / 3600 + 2)
    assert found.rows["a"] == 2 and found.seeds["b"] == 1 and found.records["all"] == 4
    said = compute.sentence(files)
    assert (
        said.startswith("4 records took 3 hours of one thread, waiting included")
        and "1 of them used a GPU, and none more than 2.0 GiB" in said
    )
    told = compute.machines(files).set_index("of")["in the records"]
    assert told["torch"] == "2" and told["gpu"] == "none (3), H100 (1)" and told["commits"] == "1 different"


def test_the_records_of_one_process_are_counted_once():
    shared = [made("x", 0, seconds=60.0 + i) | {"part": "growth"} for i in range(3)]
    assert compute.seconds([*shared, made("x", 0, seconds=5.0)]) == 67.0


def test_what_a_reader_ran_at_profile_smoke_is_not_counted(tmp_path):
    for name in ("smoke", "cpu"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.jsonl").write_text('{"kind": "run"}\n')
    assert list(compute.load(tmp_path)) == ["cpu/runs.jsonl"]


def test_the_committed_records_are_all_counted():
    files = compute.load()
    paths = [path for path in compute.RESULTS.rglob("*.jsonl") if path.parent.name != "smoke"]
    lines = sum(1 for path in paths for line in path.read_text().splitlines() if line)
    assert compute.hours(files).records.iloc[-1] == lines
    told = compute.hours(files)
    assert (told["hours of one thread"] <= told["each run alone"] + 1e-9).all()


def test_all_32_questions_of_reforms_are_answered():
    text = (ROOT / "book" / "reproducibility.md").read_text()
    items = re.findall(r"^\| (\d)([a-g]) \| [^|]+\? \| [^|]+ \|$", text, re.M)
    modules = ["abc", "abcde", "abcdefg", "abc", "abcdef", "abc", "abc", "ab"]
    assert items == [(str(i), letter) for i, letters in enumerate(modules, 1) for letter in letters]


def test_the_glossary_has_one_line_per_word():
    text = (ROOT / "book" / "glossary.md").read_text()
    body = re.search(r"```\{glossary\}\n(.*?)\n```", text, re.S)[1]
    entries = [entry.split("\n") for entry in body.split("\n\n")]
    assert 30 <= len(entries) <= 45 and all(len(entry) == 2 for entry in entries)
    words = [entry[0].lower() for entry in entries]
    assert len(set(words)) == len(words) and words == sorted(words)
