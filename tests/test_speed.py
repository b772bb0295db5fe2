"""What would break: a GPU at hand for minutes, spent on a part that does not start, or takes the rest along."""

import importlib.util
import inspect
import json
import subprocess
import sys
import time

import pytest

from report import speed
from report.notebooks import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_is_one_that_is_measured_and_takes_the_sizes_that_it_is_given():
    bench, gpu = loaded("bench"), loaded("gpu")
    parts = bench.functions()
    assert set(gpu.LIMITS) - {"tests", "comparison"} <= set(parts)
    for size in bench.SIZES.values():
        for name, given in size.items():
            further = {"trl": "folder"} if name == "against_trl" else {}
            inspect.signature(parts[name]).bind(**further, **given)
    assert set(gpu.LIMITS) - {"tests", "comparison"} <= set(bench.SIZES["rehearsal"])


def test_a_part_that_fails_or_hangs_costs_its_own_time_alone(tmp_path):
    gpu = loaded("gpu")
    assert gpu.run(["-c", "pass"], 60) == "done"
    assert gpu.run(["-c", "raise SystemExit(3)"], 60) == "failed (exit 3)"
    mark = tmp_path / "mark"
    grandchild = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    assert gpu.run(["-c", parent], 1).startswith("stopped after 1 ")
    time.sleep(5)
    assert not mark.exists(), "what a part started runs on, beside the next part"


def test_parts_that_all_take_their_limits_leave_the_comparison_its_share():
    """It is the one part that cannot be had from a CPU; the limits before it are more than the whole time."""
    gpu = loaded("gpu")
    left, kept = 480.0, 480 * gpu.SHARE
    for part in gpu.LIMITS:
        limit = gpu.seconds_of(part, left, kept)
        left -= limit if limit >= gpu.LEAST else 0
    assert part == "comparison" and limit >= kept == 120
    assert gpu.seconds_of("tests", 480, kept) == gpu.LIMITS["tests"]


def test_the_rehearsal_starts_and_writes_what_it_measures(tmp_path):
    line = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--out", str(tmp_path), "ceiling", "segments"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(text) for text in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert [r["part"] for r in records] == ["ceiling", "segments"] and all(r["median"] > 0 for r in records)
    assert all(r["provenance"]["packages"]["torch"] for r in records)
    assert len(speed.table(records)) == 2


def a_record(median: float, mark, what: str = "a", second: int = 0, commit: str = "old") -> dict:
    numbers = {"median": median, "least": median, "largest": 2 * median, "turns": 3, "mark": mark}
    where = {"utc": f"2026-01-01T00:00:0{second}", "gpu": None, "cpu": "one", "commit": commit}
    return {"what": what, "part": "piece", "size": "cpu", **numbers, "provenance": where}


@pytest.mark.parametrize("mark, met", [(["most", 1.05], False), (["least", 1.05], True), (None, None)])
def test_a_mark_is_met_or_missed(mark, met):
    assert speed.met(a_record(1.1, mark)) is met


def test_what_misses_its_mark_is_said_and_the_newest_measurement_counts():
    records = [a_record(9.0, ["least", 2]), a_record(1.0, ["least", 2], second=1), a_record(1.0, ["most", 2], "b")]
    assert speed.verdict(records) == "1 of 2 marks are met. Missed: a."
    frame = speed.table(records)
    assert frame["met"].tolist() == ["no", "yes"] and frame["median"].tolist() == ["1", "1"]


def test_a_ratio_that_its_part_no_longer_has_is_not_shown_beside_the_new_ones():
    records = [a_record(0.2, None), a_record(3.0, None, "b"), a_record(4.0, None, "b", 1, "new")]
    assert [(r["what"], r["median"]) for r in speed.newest(records)] == [("b", 4.0)]
    other = a_record(0.2, None, second=2) | {"part": "other"}
    assert len(speed.newest([*records, other])) == 2


def test_the_code_before_comes_from_history_or_is_asked_for(tmp_path):
    stages = loaded("stages")
    assert (stages.unpacked("HEAD", tmp_path) / "study" / "runner.py").exists()
    with pytest.raises(RuntimeError, match="no commit 0000000 in git's history here; git fetch --unshallow"):
        stages.unpacked("0" * 40, tmp_path)
