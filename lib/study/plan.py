"""The study as a graph of tasks: what methods share is done once, what can run side by side does, and whoever watches
is told how long it will take.

    sft -> preferences (per seed) -> scorer (per seed and training) -> run (per seed and method)
       \\-> heldout (per seed: on text, the pairs and scorer of the held-out proxy) --/

A masked method's run waits for two scorers, its own and its mask's.
RTO's run also waits for DPO's, whose policy it is paid by, and a pupil's for its teacher's, where both are asked for.

Stages are cached (`cache.py`), so a task that was done before ends at once, and a plan that was killed goes on where
it stopped. A task that fails does not stop the others: what needs it tries again by itself, and records the error.
Each task is a process with a group of its own; a study that is stopped takes them along (`Processes`), and one that is
killed outright leaves none behind (`end_with_study`).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

from tqdm import tqdm

from study.deciding import row_of
from study.methods import LEARNED, METHODS, Method

# first guess, on one core
SECONDS = {"sft": 120.0, "preferences": 60.0, "scorer": 150.0, "heldout": 210.0, "run": 110.0}
KINDS = tuple(SECONDS)  # in the order in which they need each other
NOTHING = nullcontext()
PATIENCE = 5.0  # seconds between SIGTERM and SIGKILL
WATCHES = "DENSEREWARD_WATCHES"  # of a task's process: its standard input is a pipe that only the study holds


@dataclass(frozen=True)
class Task:
    """One process: everything up to the stage `kind` of this method and seed. `needs` are names of other tasks."""

    name: str
    kind: str  # a key of SECONDS
    method: str
    seed: int
    needs: tuple[str, ...] = field(default=())


def plan(runs: list) -> dict[str, Task]:
    """Tasks by name, of `run.Run`s that share profile and dataset."""
    tasks: dict[str, Task] = {}
    asked = {f"{run.row.name}, seed {run.seed}" for run in runs}

    def add(task: Task) -> str:
        tasks.setdefault(task.name, task)
        return task.name

    for run in runs:
        row = run.row
        needs: tuple[str, ...] = ()
        if not (run.committed or run.model):
            needs = (add(Task("sft", "sft", row.name, run.seed)),)
        if row.trainer != "none":
            needs = (add(Task(f"preferences, seed {run.seed}", "preferences", row.name, run.seed, needs)),)
        learned = [r for r in (row, row_of(row)) if r and r.scorer in LEARNED and not run.committed]
        shared, needs = needs, () if learned else needs
        if run.profile.heldout_proxy:
            before = needs[:0] if run.committed or run.model else (add(Task("sft", "sft", row.name, run.seed)),)
        if run.profile.heldout_proxy and not run.testbed:
            needs += (add(Task(f"heldout, seed {run.seed}", "heldout", row.name, run.seed, before)),)
        elif run.profile.heldout_proxy:
            pairs = add(Task(f"preferences, seed {run.seed + 1}", "preferences", "bandit", run.seed + 1, before))
            needs += (
                add(Task(scorer_name(METHODS["bandit"], run.seed + 1), "scorer", "bandit", run.seed + 1, (pairs,))),
            )
        for r in learned:
            task = add(Task(scorer_name(r, run.seed), "scorer", r.name, run.seed, shared))
            needs += () if task in needs else (task,)
        needs += tuple({f"{row.advised_by}, seed {run.seed}"} & asked)
        add(Task(f"{row.name}, seed {run.seed}", "run", row.name, run.seed, needs))
    return tasks


def up_to(tasks: dict[str, Task], until: str) -> dict[str, Task]:
    """The tasks of a kind and of those before it."""
    return {name: task for name, task in tasks.items() if KINDS.index(task.kind) <= KINDS.index(until)}


def scorer_name(row: Method, seed: int) -> str:
    """The name of the task that trains a row's scorer: one for all rows that are trained alike."""
    made = [row.trained_on, row.aggregate] if row.scorer == "bradley-terry" else row.scorer
    return f"scorer {json.dumps([made, row.revisions], sort_keys=True)}, seed {seed}"


def ahead(tasks: dict[str, Task], seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of the longest chain of tasks that starts with each: what to begin with."""
    longest: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in longest:
            behind = [chain(t.name) for t in tasks.values() if name in t.needs]
            longest[name] = seconds[tasks[name].kind] + max(behind, default=0.0)
        return longest[name]

    return {name: chain(name) for name in tasks}


class Processes:
    """The processes of a study. Inside `with`, SIGTERM and SIGHUP end it as Ctrl-C does (unless they were ignored, as
    by nohup), and whatever ends it ends every process that `run` has started, and what those started."""

    def __init__(self):
        self.children: set[subprocess.Popen] = set()
        self.lock, self.stopping, self.handlers = threading.Lock(), False, {}

    def run(self, command: list[str]) -> int:
        """The exit code of a command; safe to call from several threads. 1 for one that is too late."""
        with self.lock:  # no child may start behind the back of `stop`
            if self.stopping:
                return 1
            given = os.environ | {WATCHES: "1"}
            child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=given)
            self.children.add(child)
        code = child.wait()
        child.stdin.close()
        with self.lock:
            self.children.discard(child)
        return code

    def stop(self) -> None:
        """End every process, kindly first."""
        with self.lock:
            self.stopping, left = True, list(self.children)
        self._send(signal.SIGTERM, left)
        try:
            deadline = time.monotonic() + PATIENCE
            while any(child.poll() is None for child in left) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:  # a second Ctrl-C does not wait
            self._send(signal.SIGKILL, left)

    @staticmethod
    def _send(number: int, children: list[subprocess.Popen]) -> None:
        for child in children:
            with suppress(ProcessLookupError, PermissionError):  # all of the group is gone
                os.killpg(child.pid, number)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, kind, *_):
        try:
            if kind:
                self.stop()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)


def end_with_study() -> None:
    """In a process that `Processes.run` started: end its group once the study is gone, killed without a word."""

    def watch() -> None:
        os.read(0, 1)  # returns when the other end is closed
        kill = f"kill -TERM -{os.getpgid(0)}; sleep {PATIENCE}; kill -KILL -{os.getpgid(0)}"
        subprocess.Popen(["sh", "-c", kill], start_new_session=True, stderr=subprocess.DEVNULL)

    if os.environ.pop(WATCHES, None):
        threading.Thread(target=watch, daemon=True).start()


def execute(
    tasks: dict[str, Task], jobs: int, start: Callable[[Task], int], guard: AbstractContextManager = NOTHING
) -> list[str]:
    """Run `start(task)` (its exit code) for every task, `jobs` at a time, each after what it needs; names of those that
    failed. The time left rests on what tasks of the same kind took so far. `guard` is left before the threads that call
    `start` are waited for: `Processes`, whose exit ends what they wait for."""
    took: dict[str, list[float]] = {kind: [] for kind in SECONDS}
    left, running, done, failed = dict(tasks), {}, set(), []

    def seconds() -> dict[str, float]:
        return {kind: sum(took[kind]) / len(took[kind]) if took[kind] else SECONDS[kind] for kind in SECONDS}

    with ThreadPoolExecutor(jobs) as pool, guard, tqdm(total=len(tasks), desc="tasks", unit="task") as bar:
        while left or running:
            order = ahead(tasks, seconds())
            ready = sorted((t for t in left.values() if done.issuperset(t.needs)), key=lambda t: -order[t.name])
            for task in ready[: jobs - len(running)]:
                running[pool.submit(start, left.pop(task.name))] = (task, time.perf_counter())
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, started = running.pop(future)
                done.add(task.name)
                if code := future.result():
                    failed.append(task.name)
                    tqdm.write(f"{task.name}: failed with exit code {code}")
                else:
                    took[task.kind].append(time.perf_counter() - started)
                guess = seconds()
                rest = [*left.values(), *(t for t, _ in running.values())]
                minutes = sum(guess[t.kind] for t in rest) / jobs / 60
                bar.set_postfix_str(f"about {minutes:.0f} min left; last: {task.name}")
                bar.update()
    return failed
