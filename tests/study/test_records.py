"""Records survive kills and full disks, name what is wrong with them, and say where they come from."""

import json
import math
import os
import resource
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import torch

from densereward import seeding
from densereward.canonical import canonical
from study.records import git_state, latest, provenance, read_records, to_frame, write_record


def cell(method="token", seed=0, utc="2025-01-01T00:00:00.000000+00:00", **rest):
    origin = {"utc": utc}
    return {"method": method, "profile": "smoke", "seed": seed, "params": {"cutoff": 1.5}, "provenance": origin} | rest


def test_what_was_written_is_read_back_with_keys_sorted(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    record = {"b": 1, "a": {"d": [1.5, None, True], "c": "é\n"}}
    write_record(path, record)
    write_record(path, {"z": np.float32(0.5), "y": np.arange(2), "x": torch.tensor(3)})
    assert read_records(path) == [record, {"x": 3, "y": [0, 1], "z": 0.5}]
    assert path.read_text().startswith('{"a": {"c"')
    assert canonical({"a": 1, "b": (2,)}) == canonical({"b": [2], "a": 1})


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("nan"), torch.tensor(-math.inf), np.array([math.nan])])
def test_nan_and_infinity_are_refused_by_name_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(ValueError, match=r"record\.curve\[1\]\.loss"):
        write_record(tmp_path / "r.jsonl", {"curve": [{"loss": 1.0}, {"loss": bad}]})
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("bad", [{"a": {0: 1}}, {"a": object()}, ["no dict"]])
def test_what_json_cannot_hold_is_refused(tmp_path, bad):
    with pytest.raises(ValueError):
        write_record(tmp_path / "r.jsonl", bad)


def test_full_disk_is_one_error_that_names_the_file():
    with pytest.raises(OSError, match=r"record not written, No space left.*/dev/full"):
        write_record("/dev/full", {"a": 1})


def test_unwritable_place_is_one_error_that_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.jsonl"):
        with pytest.raises(OSError, match=f"record not written.*{path}"):
            write_record(path, {"a": 1})


def test_disk_filling_in_mid_record_leaves_the_file_as_it_was(tmp_path):
    """Half a record would swallow the next one."""
    path = tmp_path / "r.jsonl"
    write_record(path, {"a": 1})
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))  # room for 5 bytes of the next
        with pytest.raises(OSError, match="record not written"):
            write_record(path, {"b": "long enough"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_last_line_cut_anywhere_is_skipped_with_its_place_and_the_next_record_is_whole(tmp_path):
    path = tmp_path / "r.jsonl"
    first, second = {"a": 1}, {"b": {"c": "é"}, "d": 2}
    write_record(path, first)
    keep = path.stat().st_size
    write_record(path, second)
    whole = path.read_bytes()
    for cut in range(keep + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match=r"skipped 1 unfinished.*r\.jsonl:2"):
            assert read_records(tmp_path) == [first]
        with pytest.warns(UserWarning, match=r"r\.jsonl:2: dropped"):
            write_record(path, second)
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # only the newline is missing
    assert read_records(path) == [first, second]
    write_record(path, first)
    assert read_records(path) == [first, second, first]


@pytest.mark.parametrize("line", ['{"a": 1', "", "3", '{"a": NaN}', '{"a": "\ud800'.encode("utf-8", "surrogatepass")])
def test_corrupted_middle_line_stops_with_file_and_line(tmp_path, line):
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "r.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl:2"):
        read_records(tmp_path)


def test_a_line_nested_too_deeply_and_one_that_its_reader_cannot_use_are_named(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b'{"a": 1}\n' + b"[" * 100_000 + b"\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:2: not a record \(maximum recursion"):
        read_records(tmp_path)
    (tmp_path / "r.jsonl").write_bytes(b'{"a": 1}\n{"b": 1}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl:2: not a record of the study \(it lacks 'a'\); mend or delete"):
        read_records(tmp_path, lambda record: record["a"])


def test_a_folder_without_records_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="no records here yet"):
        read_records(tmp_path)


def test_folder_is_read_in_order_and_a_missing_path_says_so(tmp_path):
    for name in ("b/x.jsonl", "a.jsonl"):
        write_record(tmp_path / name, {"name": name})
    assert [record["name"] for record in read_records(tmp_path)] == ["a.jsonl", "b/x.jsonl"]
    with pytest.raises(FileNotFoundError, match="gone"):
        read_records(tmp_path / "gone")


def test_writers_that_share_a_file_do_not_mix_lines(tmp_path):
    def write(writer):
        for index in range(10):
            write_record(tmp_path / "r.jsonl", {"cell": [writer, index], "pad": "x" * 5000})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cells = [tuple(record["cell"]) for record in read_records(tmp_path)]
    assert sorted(cells) == [(writer, index) for writer in range(4) for index in range(10)]


def test_latest_keeps_the_newest_run_of_each_cell():
    old, new = cell(value=1), cell(value=2, utc="2025-01-02T00:00:00.000000+00:00")
    other = [cell(seed=1), cell(method="bandit"), cell(params={"cutoff": 2.0}), cell(profile="cpu")]
    assert latest([new, *other, old]) == latest([old, *other, new]) == [new, *other]
    assert latest([cell(value=1), cell(value=2)]) == [cell(value=2)]


def test_latest_refuses_records_that_it_cannot_tell_apart():
    with pytest.raises(ValueError, match="record 0 lacks seed, params"):
        latest([{"method": "token", "profile": "cpu"}])
    steps = [{"step": 1}, {"step": 2}]
    assert latest(steps, key=("step",)) == steps


def test_frame_has_dotted_columns():
    frame = to_frame([cell(curve=[1, 2]), cell(seed=1, credit={"span": {"r": 0.5}})])
    assert list(frame["params.cutoff"]) == [1.5, 1.5]
    assert list(frame["seed"]) == [0, 1]
    assert frame["credit.span.r"][1] == 0.5 and frame["curve"][0] == [1, 2]
    assert to_frame([]).empty


def test_provenance_is_complete_and_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    monkeypatch.setenv("HF_TOKEN", "hf-hidden")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = provenance(7, "cpu", time.perf_counter() - 2.5, tokens=123)
    assert (found["seed"], found["tokens"], found["omp_num_threads"]) == (7, 123, "1")
    assert (found["device"], found["gpu"], found["peak_gpu_mib"]) == ("cpu", None, None)
    assert found["seconds"] == pytest.approx(2.5, abs=1)
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert 50 < found["peak_rss_mib"] < 1e6
    assert set(found) >= {"commit", "dirty", "python", "platform", "cpu", "cores", "threads", "utc", "peak_gpu_mib"}
    write_record(tmp_path / "r.jsonl", found)
    assert "hidden" not in (tmp_path / "r.jsonl").read_text()


def test_wall_clock_time_as_start_is_refused():
    """It would record seconds since 1970."""
    with pytest.raises(ValueError, match="perf_counter"):
        provenance(0, "cpu", time.time() + 1e9)


def test_commit_is_that_of_the_tracked_code_and_results_do_not_make_it_dirty(tmp_path):
    def git(*arguments):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    state = git_state.__wrapped__  # without the cache
    unknown = {"commit": "unknown", "dirty": None}
    code = tmp_path / "lib" / "code.py"
    code.parent.mkdir()
    code.write_text("a = 1\n")
    assert state(str(code)) == unknown  # no repository
    git("init", "-q")
    git("add", ".")
    assert state(str(code)) == unknown  # no commit
    git("commit", "-qm", "one")
    clean = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert state(str(code)) == clean
    write_record(tmp_path / "data" / "results" / "cpu" / "r.jsonl", {"a": 1})
    assert state(str(code)) == clean
    (tmp_path / "lib" / "new.py").write_text("")
    assert state(str(tmp_path / "lib" / "new.py")) == unknown  # installed into a foreign repository
    assert state(str(code)) == clean | {"dirty": True}
    (tmp_path / "lib" / "new.py").unlink()
    code.write_text("a = 2\n")
    assert state(str(code)) == clean | {"dirty": True}


def test_seeds_are_stable_and_each_name_has_its_own_stream():
    """A changed derivation would make every published seed another run."""
    assert seeding.derive(0, "ppo", 1) == 0x8F7E0E6C - 2**31  # starts: printf '[0, "ppo", "1"]' | sha256sum
    streams = [(), ("a",), ("ab", "c"), ("a", "bc"), ("a", 1)]
    seeds = {seeding.derive(seed, *names) for seed in (0, 1) for names in streams}
    assert len(seeds) == 10 and all(0 <= seed < 2**31 for seed in seeds)
    once, again = (torch.rand(2, generator=seeding.generator(0, "a")) for _ in range(2))
    assert torch.equal(once, again)
    assert seeding.rng(0, "a").random() == seeding.rng(0, "a").random() != seeding.rng(0, "b").random()


def test_seed_everything_repeats_the_global_streams():
    import random

    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    seeding.seed_everything(3)
    first = draw()
    seeding.seed_everything(3)
    assert draw() == first != draw()
    with pytest.raises(ValueError, match="between 0 and"):
        seeding.seed_everything(-1)


def test_records_stay_json_for_other_tools(tmp_path):
    write_record(tmp_path / "r.jsonl", cell())
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()] == [cell()]
