"""The constant per segment as records: what a segment of a good answer earns under the scorers of a profile's seeds.

    python -m study.measures.wage_records --profile brief --seeds 0,1,2,3

trains the scorers that are not there yet, and no policy. What it must show is in book/results.md.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from datasets import load_from_disk

from densereward import checked
from densereward.seeding import rng
from densereward.text.models import load_causal_lm, to_device
from study import command_line
from study.measures import answer_rewards, constants
from study.methods import METHODS
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, write_record
from study.run import Run

ROWS = ("token", "sentence", "bandit-as-segment", "segment", "normaliser-none")
RECORDS = ROOT / "data" / "results" / "wages.jsonl"


def measured(run: Run) -> dict[str, list[float]]:
    """What an average segment of the best quarter of test answers earns under each of ROWS: mean, low, high
    (`constants.wages`), in deviations of totals. Random: the bootstrap (seed)."""
    policy, tokenizer = load_causal_lm(run.sft)
    payers = answer_rewards.payers(run, [METHODS[name] for name in ROWS])
    pairs = load_from_disk(run.preferences.path / "test")
    answers = answer_rewards.answers(pairs, tokenizer, True, run.profile.world.returns)
    totals = answer_rewards.totals(payers, to_device(policy).eval(), tokenizer, answers)
    found = constants.wages(totals, answers.true_return, rng(run.seed, "segment constant"))
    return {row.method: [row.best, row.best_low, row.best_high] for row in found.itertuples()}


def main(
    profile: Annotated[str, typer.Option(help="whose scorers")] = "brief",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2,3",
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Measure, and append a record per seed."""
    torch.set_num_threads(1)
    with command_line.asking():
        first = replace(Run(profile_row(profile)), root=runs)
        every = [replace(first, seed=seed) for seed in checked.seeds(seeds)]
    for run in every:
        begun = time.perf_counter()
        record = {"kind": "wages", "profile": profile, "seed": run.seed, "params": run.profile.to_dict()}
        record |= {"earned": measured(run), "provenance": provenance(run.seed, "cpu", begun)}
        write_record(out, record)


app = command_line.command(main)

if __name__ == "__main__":
    app()
