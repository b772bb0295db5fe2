"""The study: every (method, seed) of a profile as one record, on stages that methods share.

    python -m densereward.study --profile cpu --methods sft,bandit,token,segment --seeds 0,1,2 --jobs 2

Appends to data/results/<profile>/runs.jsonl as runs finish. Killed, it goes on where it stopped: finished runs are
skipped, and finished stages of unfinished runs are reused from `runs/`. With several jobs the stages are a graph
(`plan.py`). What cannot be run is refused before anything starts (exit code 2, no record). A run that fails is recorded
with its error, the others go on, and the study ends with exit code 1.
"""

import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from densereward import adaptive, baselines, checked, data, effort, masking, pipeline, plan, policy, revised
from densereward.evaluation import measure, signals
from densereward.identity import check_record, parameters, same
from densereward.methods import ADAPTIVE, BASELINES, CORE, CROSS, LEARNED, METHODS, TLCR, Method, method
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import provenance, read_records, write_record
from densereward.stages import Artifact, load_json
from densereward.training.rounds import ANSWERS

RESULTS = pipeline.ROOT / "data" / "results"
GROUPS = {
    "core": CORE,
    "tlcr-core": TLCR,
    "adaptive": ADAPTIVE,
    "baselines": BASELINES,
    "cross": CROSS,
    "all": tuple(METHODS),
}
TRAINERS = {  # run, row, folder of the SFT model, preferences, folder of the scorer or None -> artifact
    "ppo": policy.train_policy,
    "rloo": baselines.train_without_critic,
    "grpo": baselines.train_without_critic,
    "remax": baselines.train_without_critic,
    "dense-grpo": baselines.train_without_critic,
    "dense-rloo": baselines.train_without_critic,
    "online-dpo": adaptive.train_in_rounds,
    "rs": adaptive.train_in_rounds,
    "dpo": lambda run, row, folder_of_sft, prefs, _: policy.train_on_pairs(run, folder_of_sft, prefs, row),
    "kto": lambda run, row, folder_of_sft, prefs, _: policy.train_on_pairs(run, folder_of_sft, prefs, row),
    "figa": lambda run, row, folder_of_sft, prefs, _: baselines.train_on_revisions(run, row, folder_of_sft, prefs),
}
CURVES = {  # what records call the curve of a trainer's loss
    "dpo": "preference_curve",
    "kto": "preference_curve",
    "figa": "revision_curve",
}


def trained(run: Run, row: Method) -> tuple[Path, Artifact | None, dict]:
    """(folder of the SFT model, the artifact with the trained policy or None, what else there is: the row with numbers
    for what it left to the data, folders of what it rests on, its scorer's metrics). Stages are shared and cached."""
    folder_of_sft = pipeline.sft_model(run)
    if row.trainer == "none":
        return folder_of_sft, None, {"row": row}
    prefs = pipeline.preferences(run, folder_of_sft)
    found = {"row": row, "preferences": prefs.path, "scorer": None}
    if row.scorer in LEARNED:
        found["row"] = row = pipeline.resolve(run, row, folder_of_sft, prefs)
        found["scorer"], found["metrics"] = revised.scorer(run, row, folder_of_sft, prefs)
    found["mask"] = masking.scorer(run, row, folder_of_sft, prefs)
    for part in (masking.row_of(row), row):
        if part and part.revisions:
            found["revisions"] = revised.revisions(run, part, folder_of_sft, prefs).path
    if advisor := policy.dpo_policy(run, row, folder_of_sft, prefs):
        found["dpo"] = advisor.path
    return folder_of_sft, TRAINERS[row.trainer](run, row, folder_of_sft, prefs, found["scorer"]), found


def named(kind: str, run: Run, row: Method) -> dict:
    """What every record of a run begins with, finished or failed."""
    return {
        "kind": kind,
        "method": row.name,
        "profile": run.profile.name,
        "dataset": run.dataset,
        "seed": run.seed,
        "params": parameters(run, row),
    }


def run_method(run: Run, row: Method) -> dict:
    """One record: trains what the row needs, evaluates the policy, measures its credit."""
    started = time.perf_counter()
    record = named("run", run, row)
    folder_of_sft, made, found = trained(run, row)
    row, folders = found["row"], {"sft": folder_of_sft}
    folders |= {name: found[name] for name in ("preferences", "revisions", "scorer", "mask", "dpo") if found.get(name)}
    if made:
        folders[row.trainer] = made.path
    if row.trainer in CURVES:
        record[CURVES[row.trainer]] = load_json(made.path / "curve.json")
        if row.mask:
            record["mask"] = load_json(made.path / "mask.json")
    elif made:
        record["segmentation"] = row.segmentation  # with numbers for "matched" or a length
        record["curves"] = load_json(made.path / "curves.json")
        if "metrics" in found:
            record["reward_model"] = found["metrics"]
        if run.testbed:
            passed = record.get("reward_model", {}).get("passes_validation")
            record["gate"] = "no reward model" if passed is None else "passed" if passed else "failed"
    if run.testbed and row.trainer in signals.TRAINERS:  # losses on pairs and likelihoods have no advantages
        record["credit"] = measure.credit_of(run, row, folder_of_sft, found["scorer"], made.path)
    record["final"] = measure.evaluate(run, folder_of_sft, made.path / "policy" if made else folder_of_sft)
    record["used"] = effort.used(row, run.profile.rollouts, found, record.get("curves", []))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    manifests = {name: Path(folder) / "manifest.json" for name, folder in folders.items()}
    record["stage_seconds"] = {name: load_json(path)["seconds"] for name, path in manifests.items() if path.exists()}
    return {**record, "provenance": provenance(run.seed, device, started, tokens=record["used"]["tokens"])}


def recorded(path: Path) -> list[dict]:
    """The records of a file, none where there is no file yet. ValueError, naming file and line, for a damaged one."""
    return read_records(path, check_record) if path.exists() else []


def done(records: list[dict], row: Method, run: Run) -> bool:
    """Whether a finished record of this run, with these parameters, is among the records. It stays valid when code
    changes (its commit is in it): to measure anew, remove it."""
    wanted = named("run", run, row)
    alike = (r for r in records if all(r.get(name) == wanted[name] for name in ("kind", "seed", "dataset")))
    return any(same(r["params"], wanted["params"]) for r in alike)


def prepare(run: Run, row: Method, until: str) -> None:
    """The stages that a run shares with others, up to `until`: "sft", "preferences" or "scorer"."""
    folder_of_sft = pipeline.sft_model(run)
    if until != "sft":
        prefs = pipeline.preferences(run, folder_of_sft)
        if until == "scorer":
            if row.scorer in LEARNED:
                revised.scorer(run, pipeline.resolve(run, row, folder_of_sft, prefs), folder_of_sft, prefs)
            masking.scorer(run, row, folder_of_sft, prefs)


def with_choices(run: Run, row: Method) -> Run:
    """The run with what `tuning.py` chose for its method; a row that is not trained has nothing to tune, and stays as
    it is. ValueError for a method that was never tuned."""
    if row.trainer == "none":
        return run
    path = RESULTS / run.profile.name / "choices.json"
    how = f"run python -m densereward.tuning policies --profile {run.profile.name} --methods {row.name}"
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


def check(row: Method, run: Run) -> None:
    """Raises ValueError for a row that its run's dataset or rollouts do not allow, which would fail in mid-work."""
    if not run.testbed and pipeline.reads_truth(row):
        raise ValueError(f"method {row.name!r} reads the testbed's truth, and {run.dataset} has none; leave it out")
    masking.row_of(row)
    group = ANSWERS if row.trainer in adaptive.BETA else row.options.get("generations", 1)
    if run.profile.rollouts % group:
        raise ValueError(f"rollouts is {run.profile.rollouts}; method {row.name!r} takes a multiple of {group}")


def asked(
    profile: str, methods: str, seeds: str, dataset: str, runs: Path, contrast: float, change: str, tuned: bool
) -> list[tuple[Method, Run]]:
    """The (row, run) pairs of a command line. ValueError or OSError for what cannot be run."""
    p = profile_row(profile, dataset, **checked.as_object(change, "change"))
    first = Run(p, 0, dataset, contrast=contrast, root=runs)
    pairs = [(row, replace(first, seed=seed)) for row in rows_of(methods) for seed in checked.seeds(seeds)]
    if not first.testbed:
        data.load(dataset)  # every record is read, and no split is empty
    for row, run in pairs:
        check(row, run)
    runs.mkdir(parents=True, exist_ok=True)
    return [(row, with_choices(run, row)) for row, run in pairs] if tuned else pairs


def main(
    profile: Annotated[str, typer.Option(help="smoke, cpu or gpu: sizes and hyperparameters")] = "cpu",
    methods: Annotated[
        str,
        typer.Option(help="comma-separated rows of methods.py, or core, adaptive, tlcr-core, baselines, cross, all"),
    ] = "core",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="runs side by side, one thread each", min=1)] = 1,
    dataset: Annotated[str, typer.Option(help="testbed, or a path to preference pairs")] = "testbed",
    out: Annotated[Path | None, typer.Option(help="records file; default data/results/PROFILE/runs.jsonl")] = None,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = pipeline.ROOT / "runs",
    contrast: Annotated[
        float, typer.Option(help="an ablation: share of contrast pairs among the preference pairs")
    ] = 0.0,
    change: Annotated[str, typer.Option(help="an ablation: profile fields as JSON, such as '{\"lam\": 0.95}'")] = "{}",
    tuned: Annotated[
        bool, typer.Option(help="with the learning rate and KL coefficient chosen for each method")
    ] = False,
    until: Annotated[
        Literal["sft", "preferences", "scorer", "run"], typer.Option(help="stop after this stage; run is all")
    ] = "run",
) -> None:
    """Run methods x seeds, writing a record per run; what is recorded already is skipped. A run that fails is recorded,
    and makes the exit code 1."""
    path = out or RESULTS / profile / "runs.jsonl"
    with checked.asking():
        if path.is_dir():
            raise ValueError(f"out is {path}, a folder; give a file such as {path / 'runs.jsonl'}")
        every = asked(profile, methods, seeds, dataset, runs, contrast, change, tuned and until == "run")
        records = recorded(path) if until == "run" else []
        todo = [(row, run) for row, run in every if not done(records, row, run)]
        if until == "run" and todo:  # seen now, not when a run has ended
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
    if until == "run":
        print(f"{len(todo)} of {len(every)} runs to do, into {path}", flush=True)
    if jobs > 1:
        same_for_all = {"--profile": profile, "--dataset": dataset, "--out": path, "--runs": runs, "--change": change}
        same_for_all |= {"--contrast": contrast}
        tasks, processes = plan.up_to(plan.plan(todo), until), plan.Processes()
        failed = plan.execute(tasks, jobs, lambda task: processes.run(command(task, same_for_all, tuned)), processes)
        failed = [name for name in failed if tasks[name].kind == until]  # what shares another stage tried it again
    else:
        failed = one_by_one(todo, path, until)
    if failed:
        print(f"{len(failed)} failed: {'; '.join(failed)}", file=sys.stderr, flush=True)
        raise SystemExit(1)


def one_by_one(todo: list[tuple[Method, Run]], path: Path, until: str) -> list[str]:
    """Do every run, or its stages up to `until`, in this process; names of those that failed."""
    torch.set_num_threads(1)
    failed = []
    for row, run in todo:
        started = time.perf_counter()
        try:
            if until != "run":
                prepare(run, row, until)
            else:
                write_record(path, run_method(run, row))
        except Exception as error:  # recorded, so that one failing method does not end the study
            traceback.print_exc()
            failed.append(f"{row.name}, seed {run.seed}")
            if until == "run":  # what shares a stage tries it again, and says so then
                why = {"error": f"{type(error).__name__}: {error}", "provenance": provenance(run.seed, "cpu", started)}
                write_record(path, named("error", run, row) | why)
    return failed


def command(task: plan.Task, options: dict, tuned: bool) -> list[str]:
    """The command line of the process that does one task. Stages that are shared know of no choices."""
    given = {**options, "--methods": task.method, "--seeds": task.seed, "--until": task.kind}
    given |= {"--tuned": ""} if tuned and task.kind == "run" else {}
    return [sys.executable, "-m", "densereward.study", *(str(w) for option in given.items() for w in option if w != "")]


app = checked.command(main)

if __name__ == "__main__":
    app()
