"""The study: every (method, seed) of a profile as one record, on stages that methods share.

    python -m study.runner --profile cpu --methods sft,bandit,token,segment --seeds 0,1,2 --jobs 2

Appends to data/results/<profile>/runs.jsonl as runs finish. Killed, it goes on where it stopped: finished runs are
skipped, and finished stages of unfinished runs are reused from `runs/`. Studies that share their folders take turns,
and make each run once. With several jobs the stages are a graph (`plan.py`). What cannot be run is refused before
anything starts (exit code 2, no record). A run that fails is recorded with its error, the others go on, and the study
ends with exit code 1; on a full disk it ends at once.
"""

import hashlib
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from densereward import checked
from densereward.canonical import canonical
from densereward.text import data, models
from densereward.training.rounds import ANSWERS
from study import command_line, deciding, engines, plan, scale
from study.backbones import BACKBONES
from study.cache import load_json, lock
from study.methods import ADAPTIVE, BASELINES, CORE, CREDIT, CROSS, METHODS, TLCR, Method, method
from study.profiles import profile as profile_row
from study.record import done, named, record, recorded
from study.records import ROOT, disk_full, provenance, write_record
from study.run import Run, reads_truth
from study.stages import rounds

RESULTS = ROOT / "data" / "results"
GROUPS = {
    "core": CORE,
    "tlcr-core": TLCR,
    "adaptive": ADAPTIVE,
    "baselines": BASELINES,
    "cross": CROSS,
    "credit": CREDIT,
    "all": tuple(METHODS),
}


def prepare(run: Run, until: str) -> None:
    """The stages that a run shares with others, up to `until`: "sft", "preferences", "scorer" or "heldout"."""
    shared = [getattr(run, until)]
    shared += [run.mask.scorer] if until == "scorer" and run.mask else []


def with_choices(run: Run) -> Run:
    """The run with what `tuning.py` chose for its method; a row that is not trained has nothing to tune, and stays as
    it is. ValueError for a method that was never tuned."""
    row = run.row
    if row.trainer == "none":
        return run
    path = RESULTS / run.profile.name / "choices.json"
    how = f"run python -m study.tuning policies --profile {run.profile.name} --methods {row.name}"
    if not path.exists():
        raise ValueError(f"{path} does not exist: nothing was tuned yet; {how}")
    try:
        choices = load_json(path)["choices"]
        chosen = choices[row.name] if row.name in choices else None
        tuned = None if chosen is None else replace(run.profile, **chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be used ({error}); {how}") from None
    if not tuned:
        raise ValueError(
            f"method {row.name!r} was never tuned for profile {run.profile.name!r}; {how}, or leave it out"
        )
    return replace(run, profile=tuned, tuned=True)


def rows_of(methods: str) -> list[Method]:
    """The rows that a comma-separated list of names and groups stands for, each once. ValueError for an unknown one."""
    names = [name for part in checked.listed(methods, "methods") for name in GROUPS.get(part, (part,))]
    return [method(name) for name in dict.fromkeys(names)]


def check(run: Run) -> None:
    """Raises ValueError for a row that its run's dataset or rollouts do not allow, which would fail in mid-work."""
    row = run.row
    if not run.testbed and reads_truth(row):
        raise ValueError(f"method {row.name!r} reads the testbed's truth, and {run.dataset} has none; leave it out")
    deciding.row_of(row)
    twice = [row.options.get("macro"), row.options.get("cuts"), row.shaping.get("segmentation")]
    twice += [row.segmentation] if row.trainer.startswith("dense-") else []
    if any(cut and cut.get("kind") == "random" for cut in twice):
        raise ValueError(
            f"method {row.name!r} has random segments, which cannot be cut twice alike; choose another kind"
        )
    group = ANSWERS if row.trainer in rounds.BETA else row.options.get("generations", 1)
    if run.profile.rollouts % group:
        raise ValueError(f"rollouts is {run.profile.rollouts}; method {row.name!r} takes a multiple of {group}")


def asked(
    profile: str, methods: str, seeds: str, dataset: str, runs: Path, contrast: float, change: str, tuned: bool, **how
) -> list[Run]:
    """The runs of a command line; `how` are further fields of a `Run`. ValueError or OSError for what cannot be run."""
    p = profile_row(profile, dataset, **checked.as_object(change, "change"))
    first = Run(p, 0, dataset, contrast=contrast, root=runs, **how)
    engines.check(first)
    found = [replace(first, seed=seed, row=row) for row in rows_of(methods) for seed in checked.seeds(seeds)]
    if model := how.get("model"):
        models.check_length(model, p.max_prompt_length + p.max_completion_length)
    if not first.testbed:
        data.load(dataset, columns=first.renamed)  # every record is read, and no split is empty
    for run in found:
        check(run)
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=runs):  # a folder that takes no file is seen now
        pass
    return [with_choices(run) for run in found] if tuned else found


def main(
    profile: Annotated[str, typer.Option(help="smoke, brief, small, cpu or gpu: sizes and hyperparameters")] = "cpu",
    methods: Annotated[
        str,
        typer.Option(
            help="comma-separated rows of methods.py, or core, adaptive, tlcr-core, baselines, cross, credit, all"
        ),
    ] = "core",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="runs side by side, one thread each", min=1)] = 1,
    dataset: Annotated[str, typer.Option(help="testbed, or a path to preference pairs")] = "testbed",
    out: Annotated[Path | None, typer.Option(help="records file; default data/results/PROFILE/runs.jsonl")] = None,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
    contrast: Annotated[
        float, typer.Option(help="an ablation: share of contrast pairs among the preference pairs")
    ] = 0.0,
    change: Annotated[str, typer.Option(help="an ablation: profile fields as JSON, such as '{\"lam\": 0.95}'")] = "{}",
    tuned: Annotated[
        bool, typer.Option(help="with the learning rate and KL coefficient chosen for each method")
    ] = False,
    until: Annotated[
        Literal["sft", "preferences", "scorer", "heldout", "run"],
        typer.Option(help="stop after this stage; run is all"),
    ] = "run",
    model: Annotated[str | None, typer.Option(help="folder or hub name of a pretrained causal LM")] = None,
    engine: Annotated[str, typer.Option(help=engines.MEND)] = engines.ALONE,
    processes: Annotated[int, typer.Option(help="processes that train, on all nodes together", min=1)] = 1,
    hostfile: Annotated[str | None, typer.Option(help="a DeepSpeed hostfile: name slots=8, a line per node")] = None,
    report_to: Annotated[str, typer.Option(help="a tracker of TRL's: trackio, wandb or tensorboard")] = "none",
    dry_run: Annotated[
        bool, typer.Option(help="one update of every stage, of a paper's backbone at toy width; no record")
    ] = False,
    columns: Annotated[
        str, typer.Option(help='what its columns are called, as JSON: {"prompt": ..., "chosen": ..., "rejected": ...}')
    ] = "",
) -> None:
    """Run methods x seeds, writing a record per run; what is recorded already is skipped. A run that fails is recorded,
    and makes the exit code 1."""
    path = out or RESULTS / profile / "runs.jsonl"
    with command_line.asking():
        how = {
            "columns": columns,
            "model": model,
            "engine": engine,
            "processes": processes,
            "hostfile": hostfile,
            "report_to": report_to,
        }
        every = asked(profile, methods, seeds, dataset, runs, contrast, change, tuned and until == "run", **how)
        if profile in BACKBONES:
            print("\n".join(scale.memory(profile)), flush=True)
        if not dry_run:
            every = [scale.provided(run) for run in every]
    if dry_run:
        for run in every:
            scale.dry_run(run)
        return
    with command_line.asking():
        records = recorded(command_line.records_file(path)) if until == "run" else []
        todo = [run for run in every if not done(records, run)]
        if until == "run" and todo:  # seen now, not when a run has ended
            path.open("ab").close()
    if until == "run":
        then = "stopped, the same line goes on from there" if todo else "all are there"
        print(f"{len(todo)} of {len(every)} runs to do, into {path}; {then}", flush=True)
    if not todo:
        return
    if jobs > 1:
        same_for_all = {"--profile": profile, "--dataset": dataset, "--out": path, "--runs": runs, "--change": change}
        same_for_all |= {f"--{name.replace('_', '-')}": value for name, value in how.items() if value not in (None, "")}
        same_for_all |= {"--contrast": contrast}
        tasks, processes = plan.up_to(plan.plan(todo), until), plan.Processes()
        failed = plan.execute(tasks, jobs, lambda task: processes.run(command(task, same_for_all, tuned)), processes)
        failed = [name for name in failed if tasks[name].kind == until]  # what shares another stage tried it again
    else:
        failed = one_by_one(todo, path, until)
    if failed:
        print(f"{len(failed)} failed: {'; '.join(failed)}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def one_by_one(todo: list[Run], path: Path, until: str) -> list[str]:
    """Do every run, or its stages up to `until`, in this process; names of those that failed."""
    torch.set_num_threads(1)
    failed = []
    for run in todo:
        started = time.perf_counter()
        try:
            if until != "run":
                prepare(run, until)
                continue
            made = hashlib.sha256(canonical([str(path.resolve()), named("run", run)]).encode()).hexdigest()[:12]
            with lock(run.root / f".{run.row.name}-{made}.lock"):
                if not done(recorded(path), run):  # by another study, since this one began
                    write_record(path, record(run))
        except Exception as error:  # recorded, so that one failing method does not end the study
            if why := disk_full(error):
                mend = "make room, or choose other folders, and start it again: what is finished is kept"
                print(f"Error: {run.row.name}, seed {run.seed}: {why}; {mend}", file=sys.stderr)
                raise SystemExit(1) from None
            traceback.print_exc()
            failed.append(f"{run.row.name}, seed {run.seed}")
            if until == "run":  # what shares a stage tries it again, and says so then
                why = {"error": f"{type(error).__name__}: {error}", "provenance": provenance(run.seed, "cpu", started)}
                write_record(path, named("error", run) | why)
    return failed


def command(task: plan.Task, options: dict, tuned: bool) -> list[str]:
    """The command line of the process that does one task. Stages that are shared know of no choices."""
    given = {**options, "--methods": task.method, "--seeds": task.seed, "--until": task.kind}
    given |= {"--tuned": ""} if tuned and task.kind == "run" else {}
    return [sys.executable, "-m", "study.runner", *(str(w) for option in given.items() for w in option if w != "")]


app = command_line.command(main)

if __name__ == "__main__":
    plan.end_with_study()
    app()
