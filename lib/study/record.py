"""One run, one record: what was asked for, what it cost, what its policy says, where its credit lies."""

import time
from pathlib import Path

import torch

from study import effort
from study.cache import load_json
from study.identity import check_record, parameters, same
from study.measures import measure, signals
from study.records import provenance, read_records
from study.run import Run
from study.stages.policy import CURVES


def named(kind: str, run: Run) -> dict:
    """What every record of a run begins with, finished or failed."""
    return {
        "kind": kind,
        "method": run.row.name,
        "profile": run.profile.name,
        "dataset": run.dataset,
        "seed": run.seed,
        "params": parameters(run),
    }


def record(run: Run) -> dict:
    """One record: trains what the row needs, evaluates the policy, measures its credit."""
    started, found, trainer = time.perf_counter(), named("run", run), run.row.trainer
    if trainer != "none":
        report = run.preferences.path / "report.json"
        found["data"] = load_json(report)  # what was dropped, merged or cut
    if trainer in CURVES:
        found[CURVES[trainer]] = load_json(run.policy.path / "curve.json")
        if run.mask:
            found["mask"] = load_json(run.policy.path / "mask.json")
    elif run.policy:
        found["segmentation"] = run.method.segmentation  # with numbers for "matched" or a length
        found["curves"] = load_json(run.policy.path / "curves.json")
        if run.metrics:
            found["reward_model"] = run.metrics
        if run.testbed:
            passed = run.metrics.get("passes_validation")
            found["gate"] = "no reward model" if passed is None else "passed" if passed else "failed"
    if run.testbed and trainer in signals.TRAINERS:  # losses on pairs and likelihoods have no advantages
        found["credit"] = measure.credit_of(run)
    if run.heldout:
        found["heldout"] = load_json(run.heldout / "metrics.json")
    found["final"] = measure.evaluate(run)
    if run.engine != "alone":
        found["engine"] = {"name": run.engine, "processes": run.processes}
    found["used"] = effort.used(run, found.get("curves", []))
    manifests = {name: Path(folder) / "manifest.json" for name, folder in rests_on(run).items()}
    found["stage_seconds"] = {name: load_json(path)["seconds"] for name, path in manifests.items() if path.exists()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {**found, "provenance": provenance(run.seed, device, started, tokens=found["used"]["tokens"])}


def rests_on(run: Run) -> dict[str, Path | str]:
    """{stage: its folder} of everything that a finished run's policy was made of."""
    if not run.policy:
        return {"sft": run.sft}
    revised = next((r for r in (run, run.mask) if r and r.row.revisions), None)  # the row's own, or its mask's
    folders = {
        "sft": run.sft,
        "preferences": run.preferences.path,
        "entropies": run.pairs.path if run.pairs != run.preferences else None,
        "revisions": revised and revised.revisions.path,
        "scorer": run.scorer,
        "mask": run.mask and run.mask.scorer,
        run.row.advised_by: run.row.advised_by and run.of(run.row.advised_by).policy.path,
        run.row.trainer: run.policy.path,
    }
    return {name: folder for name, folder in folders.items() if folder}


def recorded(path: Path) -> list[dict]:
    """The records of a file, none where there is no file yet. ValueError, naming file and line, for a damaged one."""
    return read_records(path, check_record) if path.exists() else []


def done(records: list[dict], run: Run) -> bool:
    """Whether a finished record of this run, with these parameters, is among the records. It stays valid when code
    changes (its commit is in it): to measure anew, remove it."""
    wanted = named("run", run)
    alike = (r for r in records if all(r.get(name) == wanted[name] for name in ("kind", "seed", "dataset")))
    return any(same(r["params"], wanted["params"]) for r in alike)
