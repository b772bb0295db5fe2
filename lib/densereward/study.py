"""The study: every (method, seed) of a profile as one record, on stages that methods share.

    python -m densereward.study --profile cpu --methods sft,bandit,token,segment --seeds 0,1,2 --jobs 2

Appends to data/results/<profile>/runs.jsonl as runs finish. Killed, it goes on where it stopped: finished runs are
skipped, and finished stages of unfinished runs are reused from `runs/`. With several jobs the stages are a graph
(`plan.py`). A run that fails is recorded with its error and the others go on.
"""

import json
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from densereward import adaptive, baselines, effort, masking, pipeline, plan, policy, revised
from densereward.evaluation import measure, signals
from densereward.identity import parameters, same
from densereward.methods import ADAPTIVE, BASELINES, CORE, CROSS, LEARNED, METHODS, TLCR, Method, method
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import provenance, read_records, write_record
from densereward.stages import Artifact, load_json

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


def run_method(run: Run, row: Method) -> dict:
    """One record: trains what the row needs, evaluates the policy, measures its credit."""
    started = time.perf_counter()
    record = {
        "kind": "run",
        "method": row.name,
        "profile": run.profile.name,
        "dataset": run.dataset,
        "seed": run.seed,
        "params": parameters(run, row),
    }
    folder_of_sft, made, found = trained(run, row)
    row, folders = found["row"], {"sft": folder_of_sft}
    if "preferences" in found:
        record["data"] = load_json(found["preferences"] / "report.json")  # what was dropped, merged or cut
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


def done(path: Path, row: Method, run: Run) -> bool:
    """Whether a finished record of this run, with these parameters, is in the file already. It stays valid when code
    changes (its commit is in it): to measure anew, remove it."""
    if not path.exists():
        return False
    wanted = parameters(run, row)
    alike = (r for r in read_records(path) if (r["kind"], r["seed"], r["dataset"]) == ("run", run.seed, run.dataset))
    return any(same(r["params"], wanted) for r in alike)


def prepare(run: Run, row: Method, until: str) -> None:
    """The stages that a run shares with others, up to `until`: "sft", "preferences" or "scorer"."""
    folder_of_sft = pipeline.sft_model(run)
    if until != "sft":
        prefs = pipeline.preferences(run, folder_of_sft)
        if until == "scorer":
            revised.scorer(run, pipeline.resolve(run, row, folder_of_sft, prefs), folder_of_sft, prefs)


def with_choices(run: Run, row: Method) -> Run:
    """The run with what `tuning.py` chose for its method, if anything; without that it is no tuned run."""
    path = RESULTS / run.profile.name / "choices.json"
    if not path.exists():
        raise ValueError(f"{path} does not exist: run densereward.tuning first")
    chosen = load_json(path)["choices"].get(row.name, {})
    return replace(run, profile=replace(run.profile, **chosen), tuned=True)


def main(
    profile: Annotated[str, typer.Option(help="smoke, cpu or gpu: sizes and hyperparameters")] = "cpu",
    methods: Annotated[
        str,
        typer.Option(help="comma-separated rows of methods.py, or core, adaptive, tlcr-core, baselines, cross, all"),
    ] = "core",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="runs side by side, one thread each")] = 1,
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
    until: Annotated[str, typer.Option(help="stop after this stage: sft, preferences, scorer, or run (all)")] = "run",
) -> None:
    """Run methods x seeds, writing a record per run; what is recorded already is skipped."""
    try:
        p, rows = (
            profile_row(profile, dataset, **json.loads(change)),
            [method(name) for name in GROUPS.get(methods, methods.split(","))],
        )
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    path = out or RESULTS / profile / "runs.jsonl"
    todo = [(row, Run(p, seed, dataset, contrast=contrast, root=runs)) for row in rows for seed in numbers]
    if tuned:
        todo = [(row, with_choices(run, row)) for row, run in todo]
    todo = [(row, run) for row, run in todo if not done(path, row, run)]
    if until == "run":
        print(f"{len(todo)} of {len(rows) * len(numbers)} runs to do, into {path}", flush=True)
    if jobs > 1:
        same_for_all = {"--profile": profile, "--dataset": dataset, "--out": path, "--runs": runs, "--change": change}
        same_for_all |= {"--contrast": contrast, "--tuned" if tuned else "--no-tuned": ""}
        plan.execute(plan.plan(todo), jobs, lambda task: one_process(task, same_for_all))
        return
    torch.set_num_threads(1)
    for row, run in todo:
        try:
            if until != "run":
                prepare(run, row, until)
            else:
                write_record(path, run_method(run, row))
        except Exception as error:  # recorded, so that one failing method does not end the study
            traceback.print_exc()
            if until == "run":  # what shares a stage tries it again, and says so then
                names = {"method": row.name, "profile": profile, "dataset": dataset, "seed": run.seed, "params": {}}
                origin = provenance(run.seed, "cpu", time.perf_counter())
                why = {"error": f"{type(error).__name__}: {error}", "provenance": origin}
                write_record(path, {"kind": "error", **why, **names})
            if len(todo) == 1:
                raise SystemExit(1) from None


def one_process(task: plan.Task, options: dict) -> int:
    """Exit code of a process that does one task."""
    given = {**options, "--methods": task.method, "--seeds": task.seed, "--until": task.kind}
    command = [str(word) for option in given.items() for word in option if word != ""]
    return subprocess.run([sys.executable, "-m", "densereward.study", *command]).returncode


if __name__ == "__main__":
    typer.run(main)
