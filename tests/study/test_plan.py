"""The plan of a study: a stage done twice wastes an hour, a run started before its scorer waits for it in vain."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from study import plan
from study.methods import METHODS
from study.profiles import profile
from study.run import Run


def runs(names: str, seeds=(0, 1)) -> list[Run]:
    return [Run(profile("cpu"), seed, row=METHODS[name]) for name in names.split() for seed in seeds]


def test_what_methods_share_is_one_task():
    tasks = plan.plan(runs("sft bandit segment segment-as-bandit normaliser-none oracle-dense dpo"))
    kinds = [task.kind for task in tasks.values()]
    assert kinds.count("sft") == 1 and kinds.count("preferences") == 3  # the next seed's too, for the held-out proxy
    assert kinds.count("scorer") == 5  # bandit and segment for each seed, which the others read, and the proxy's
    assert kinds.count("run") == 14
    needs = {name: task.needs for name, task in tasks.items()}
    proxy = plan.scorer_name(METHODS["bandit"], 2)
    assert needs["sft, seed 1"] == ("sft", proxy) and needs["oracle-dense, seed 1"] == ("preferences, seed 1", proxy)
    assert needs[proxy] == ("preferences, seed 2",) and needs["preferences, seed 2"] == ("sft",)
    assert needs["segment, seed 0"] == needs["normaliser-none, seed 0"] == needs["segment-as-bandit, seed 0"]


def test_on_text_a_seed_has_one_judge_for_all_its_runs():
    text = [replace(run, dataset="pairs.jsonl") for run in runs("sft bandit token", seeds=(0, 1))]
    tasks = plan.plan(text)
    assert [t.kind for t in tasks.values()].count("heldout") == 2 and "preferences, seed 2" not in tasks
    assert tasks["heldout, seed 1"].needs == ("sft",)
    assert all("heldout, seed 1" in tasks[f"{name}, seed 1"].needs for name in ("sft", "bandit", "token"))
    assert plan.up_to(tasks, "heldout").keys() == {name for name in tasks if tasks[name].kind != "run"}


def test_nothing_is_trained_for_committed_models():
    run = Run(profile("smoke"), 0)
    assert run.committed and {t.kind for t in plan.plan([run.of("segment")]).values()} == {
        "preferences",
        "run",
    }
    fresh = replace(run, profile=replace(run.profile, committed_models=None))
    assert "scorer" in {t.kind for t in plan.plan([fresh.of("segment")]).values()}


def test_every_task_runs_once_after_what_it_needs_and_a_failing_one_stops_nothing():
    tasks, lock = plan.plan(runs("sft bandit segment random oracle-dense")), threading.Lock()
    started, ended, active = [], [], []

    def start(task):
        with lock:
            started.append(task.name)
            active.append(len(started) - len(ended))
            missing = set(task.needs) - set(ended)
        time.sleep(0.01)
        with lock:
            ended.append(task.name)
        return 1 if missing or task.name.startswith("segment,") else 0

    failed = plan.execute(tasks, 3, start)
    assert sorted(started) == sorted(tasks) and max(active) <= 3
    assert sorted(failed) == ["segment, seed 0", "segment, seed 1"]


def test_the_longest_chain_goes_first():
    tasks = plan.plan(runs("oracle-dense segment", seeds=(0,)))
    order = plan.ahead(tasks, plan.SECONDS)
    scorer = next(name for name, task in tasks.items() if task.kind == "scorer")
    assert order["sft"] > order["preferences, seed 0"] > order[scorer] > order["oracle-dense, seed 0"]


def test_a_study_that_stops_early_does_what_comes_before():
    """With several jobs, `--until` was forgotten, and everything ran."""
    tasks = plan.plan(runs("bandit segment", seeds=(0,)))
    assert {t.kind for t in plan.up_to(tasks, "sft").values()} == {"sft"}
    assert {t.kind for t in plan.up_to(tasks, "scorer").values()} == {"sft", "preferences", "scorer"}
    assert plan.up_to(tasks, "run") == tasks
    for until in plan.KINDS:
        some = plan.up_to(tasks, until)
        assert all(set(task.needs) <= some.keys() for task in some.values())


STUDY = """
import sys
from pathlib import Path
from study import plan
folder = Path(sys.argv[1])
# a task and a process of its own, which no signal to the task alone would reach; one task does not heed SIGTERM
child = "import os, signal, subprocess, sys, time; from pathlib import Path\\n"
child += "if sys.argv[2] == 'b': signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
child += "from study import plan; plan.PATIENCE = 0.5; plan.end_with_study()\\n"
child += "own = subprocess.Popen(['sleep', '600'])\\n"
child += "Path(sys.argv[1], sys.argv[2]).write_text(f'{os.getpid()} {own.pid}')\\n"
child += "time.sleep(600)"
processes = plan.Processes()
plan.PATIENCE = 0.5
tasks = {name: plan.Task(name, "run", "sft", 0) for name in "abc"}
start = lambda task: processes.run([sys.executable, "-c", child, str(folder), task.name])
plan.execute(tasks, 2, start, processes)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(happened, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happened()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name
)
def test_a_study_that_is_stopped_takes_its_processes_along(tmp_path, number):
    """They went on for hours, and wrote into the records of the next study."""
    (tmp_path / "script.py").write_text(STUDY)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # a job in the background has it ignored
    heard = None if number == signal.SIGKILL else heard
    study = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=heard)
    pids = []
    try:
        paths = [tmp_path / name for name in "ab"]
        assert until(lambda: all(path.exists() and path.read_text() for path in paths)), "no task was started"
        pids = [int(pid) for path in paths for pid in path.read_text().split()]
        assert len(pids) == 4 and all(map(alive, pids))
        os.kill(study.pid, number)  # the study alone, as `kill` and a batch system do
        assert study.wait(60) != 0
        assert until(lambda: not any(map(alive, pids)), 10.0), "a process was left at work"
        assert not (tmp_path / "c").exists(), "a task was started after the end"
    finally:
        for pid in [*pids, study.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_finished_study_gives_signals_back_and_one_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        was = signal.getsignal(signal.SIGTERM)
        with plan.Processes() as processes:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is not was
            assert processes.run([sys.executable, "-S", "-c", "raise SystemExit(3)"]) == 3
        assert signal.getsignal(signal.SIGTERM) is was
    finally:
        signal.signal(signal.SIGHUP, before)
