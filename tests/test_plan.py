"""The plan of a study: a stage done twice wastes an hour, a run started before its scorer waits for it in vain."""

import threading
import time
from dataclasses import replace

from densereward import plan
from densereward.methods import METHODS
from densereward.pipeline import Run
from densereward.profiles import profile


def runs(names: str, seeds=(0, 1)) -> list[tuple]:
    return [(METHODS[name], Run(profile("cpu"), seed)) for name in names.split() for seed in seeds]


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


def test_nothing_is_trained_for_committed_models():
    run = Run(profile("smoke"), 0)
    assert run.committed and {t.kind for t in plan.plan([(METHODS["segment"], run)]).values()} == {"preferences", "run"}
    fresh = replace(run, profile=replace(run.profile, committed_models=None))
    assert "scorer" in {t.kind for t in plan.plan([(METHODS["segment"], fresh)]).values()}


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
