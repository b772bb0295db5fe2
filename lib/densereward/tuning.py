"""Equal trials: the same grid of learning rate and score scale for every granularity of reward model.

    python -m densereward.tuning --profile cpu

Scored by label accuracy on validation pairs of seed 1000, which no result uses. Appends to
data/results/<profile>/tuning.jsonl and skips what is there. One setting serves all granularities: the one with the best
mean over them, so that none is favoured; the figure shows each one's own best beside it. The choice stands in
`profiles.py`.
"""

import itertools
import time
from dataclasses import replace
from typing import Annotated

import torch
import typer

from densereward import pipeline, study
from densereward.methods import method
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import provenance, read_records, write_record

SEED = 1000
GRID = {"rm_learning_rate": (1e-3, 2e-3), "rm_scale": (1.0, 4.0)}
METHODS = ("bandit", "token", "segment")
PAIRS = 6_000  # trials are shorter than the study's runs


def main(
    profile: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    part: Annotated[
        str, typer.Option(help="i/n: only every n-th trial from the i-th, to share them among processes")
    ] = "0/1",
) -> None:
    """Run the grid, writing a record per trial."""
    torch.set_num_threads(1)
    path, base = study.RESULTS / profile / "tuning.jsonl", profile_row(profile)
    grid = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    first, step = map(int, part.split("/"))
    for name, changes in list(itertools.product(METHODS, grid))[first::step]:
        done = read_records(path) if path.exists() else []
        if any((r["method"], r["changes"]) == (name, changes) for r in done):
            continue
        started = time.perf_counter()
        run = Run(replace(base, pairs=PAIRS, committed_models=None, **changes), SEED)
        sft = pipeline.sft_model(run)
        metrics = pipeline.scorer(run, method(name), sft, pipeline.preferences(run, sft))[1]
        record = {
            "kind": "trial",
            "method": name,
            "changes": changes,
            "seed": SEED,
            "profile": profile,
            "accuracy": metrics["accuracy_validation"],
            "gate": metrics["gate_validation"],
            "curve": metrics["curve"],
            "provenance": provenance(SEED, "cpu", started),
        }
        write_record(path, record)
        print(name, changes, f"accuracy {record['accuracy']:.3f}, gate {record['gate']:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
