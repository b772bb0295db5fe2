"""The study: every (method, seed) of a profile as one record, on stages that methods share.

    python -m densereward.study --profile cpu --methods sft,bandit,token,segment --seeds 0,1,2 --jobs 2

Appends to data/results/<profile>/runs.jsonl as runs finish. Killed, it goes on where it stopped: finished runs are
skipped, and finished stages of unfinished runs are reused from `runs/`. A run that fails is recorded with its error and
the others go on.
"""

import json
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from densereward import pipeline, policy
from densereward.evaluation import measure
from densereward.methods import METHODS, Method, method
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import provenance, read_records, write_record
from densereward.stages import load_json

RESULTS = pipeline.ROOT / "data" / "results"


def run_method(run: Run, row: Method) -> dict:
    """One record: trains what the row needs (stages are shared and cached), evaluates the policy, measures its
    credit."""
    started = time.perf_counter()
    folder_of_sft = pipeline.sft_model(run)
    record = {
        "kind": "run",
        "method": row.name,
        "profile": run.profile.name,
        "dataset": run.dataset,
        "seed": run.seed,
        "params": parameters(run, row),
    }
    folder_of_policy, folder_of_scorer, folders = folder_of_sft, None, {"sft": folder_of_sft}
    if row.scorer != "none":
        prefs = pipeline.preferences(run, folder_of_sft)
        if row.scorer == "bradley-terry":
            row = pipeline.matched_rate(run, row, folder_of_sft, prefs)
            record["segmentation"] = row.segmentation  # a random one with the rate that was matched
            folder_of_scorer, record["reward_model"] = pipeline.scorer(run, row, folder_of_sft, prefs)
        trained = policy.train_policy(run, row, folder_of_sft, prefs, folder_of_scorer)
        folder_of_policy = trained.path / "policy"
        record["curves"] = load_json(trained.path / "curves.json")
        folders |= {"preferences": prefs.path, "scorer": folder_of_scorer, "ppo": trained.path}
        if run.testbed:
            record["credit"] = measure.credit_of(run, row, folder_of_sft, folder_of_scorer, trained.path)
            passed = record.get("reward_model", {}).get("passes_validation")
            record["gate"] = "no reward model" if passed is None else "passed" if passed else "failed"
    record["final"] = measure.evaluate(run, folder_of_sft, folder_of_policy)
    tokens = sum(r["length"] for r in record.get("curves", [])) * run.profile.rollouts
    device = "cuda" if torch.cuda.is_available() else "cpu"
    manifests = {name: Path(folder) / "manifest.json" for name, folder in folders.items() if folder}
    record["stage_seconds"] = {name: load_json(path)["seconds"] for name, path in manifests.items() if path.exists()}
    return {**record, "provenance": provenance(run.seed, device, started, tokens=int(tokens))}


def parameters(run: Run, row: Method) -> dict:
    """Everything that tells two runs of a method and seed apart, in JSON's types."""
    given = {"method": asdict(row), "profile": run.profile.to_dict(), "model": run.model, "contrast": run.contrast}
    return json.loads(json.dumps(given))


def done(path: Path, row: Method, run: Run) -> bool:
    """Whether a finished record of this run, with these parameters, is in the file already. It stays valid when code
    changes (its commit is in it): to measure anew, remove it."""
    if not path.exists():
        return False
    wanted = ("run", run.seed, run.dataset, parameters(run, row))
    return any((r["kind"], r["seed"], r["dataset"], r["params"]) == wanted for r in read_records(path))


def main(
    profile: Annotated[str, typer.Option(help="smoke, cpu or gpu: sizes and hyperparameters")] = "cpu",
    methods: Annotated[str, typer.Option(help="comma-separated rows of methods.py")] = ",".join(METHODS),
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="runs side by side, one thread each")] = 1,
    dataset: Annotated[str, typer.Option(help="testbed, or a path to preference pairs")] = "testbed",
    out: Annotated[Path | None, typer.Option(help="records file; default data/results/PROFILE/runs.jsonl")] = None,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = pipeline.ROOT / "runs",
    contrast: Annotated[
        float, typer.Option(help="an ablation: share of contrast pairs among the preference pairs")
    ] = 0.0,
    change: Annotated[str, typer.Option(help="an ablation: profile fields as JSON, such as '{\"lam\": 0.95}'")] = "{}",
) -> None:
    """Run methods x seeds, writing a record per run; what is recorded already is skipped."""
    try:
        p, rows = profile_row(profile, dataset, **json.loads(change)), [method(name) for name in methods.split(",")]
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    path = out or RESULTS / profile / "runs.jsonl"
    todo = [(row, Run(p, seed, dataset, contrast=contrast, root=runs)) for row in rows for seed in numbers]
    todo = [(row, run) for row, run in todo if not done(path, row, run)]
    print(f"{len(todo)} of {len(rows) * len(numbers)} runs to do, into {path}", flush=True)
    if jobs > 1:
        same = {"--profile": profile, "--dataset": dataset, "--out": path, "--runs": runs, "--change": change}
        same["--contrast"] = contrast
        with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(todo), desc="runs") as bar:
            for failed in pool.map(lambda pair: one_process(*pair, same), todo):
                bar.update()
                if failed:
                    tqdm.write(f"a run ended with exit code {failed}: see its record")
        return
    torch.set_num_threads(1)
    for row, run in todo:
        try:
            write_record(path, run_method(run, row))
        except Exception as error:  # recorded, so that one failing method does not end the study
            traceback.print_exc()
            names = {"method": row.name, "profile": profile, "dataset": dataset, "seed": run.seed, "params": {}}
            origin = provenance(run.seed, "cpu", time.perf_counter())
            write_record(
                path, {"kind": "error", "error": f"{type(error).__name__}: {error}", "provenance": origin, **names}
            )
            if len(todo) == 1:
                raise SystemExit(1) from None


def one_process(row: Method, run: Run, options: dict) -> int:
    """Exit code of a process that does one run."""
    given = {**options, "--methods": row.name, "--seeds": run.seed}
    command = [str(word) for option in given.items() for word in option]
    return subprocess.run([sys.executable, "-m", "densereward.study", *command]).returncode


if __name__ == "__main__":
    typer.run(main)
