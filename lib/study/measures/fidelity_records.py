"""What credit fidelity is made of, as records: does an advantage know a span by what is paid for it, or by what is paid
behind it?

    python -m study.measures.fidelity_records --profile brief --seeds 0,1,2

trains scorers and critics that are not there yet, and policies for the one round that a run must have. What it must
show is in data/foretold_seeds.yml.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from densereward import checked
from study import command_line
from study.measures import credit, measure, signals
from study.methods import METHODS
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, write_record
from study.run import Run

ROWS = (
    *("bandit", "sentence", "token", "segment", "bandit-as-segment", "segment-as-bandit", "normaliser-none"),
    *("bandit-synthetic", "tlcr-fixed", "tlcr", "random", "random-rewards"),
    *("oracle-sequence", "oracle-dense", "oracle-dense-even"),
)
RECORDS = ROOT / "data" / "results" / "fidelity.jsonl"


def measured(run: Run) -> dict[str, float]:
    """`credit.fidelity_parts` of a run's rewards and critic on answers of the SFT model. Random: the answers (seed)."""
    found = measure.reference_credit(run)
    told = measure.paid(run, found)
    _, values = signals.by_critic(run, told)
    spans, credits, deciding = (torch.tensor(found[name]) for name in ("span_ids", "credits", "deciding"))
    return credit.fidelity_parts(told.batch["rewards"].cpu(), values.cpu(), spans, credits, deciding)


def main(
    profile: Annotated[str, typer.Option(help="whose scorers and critics")] = "brief",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Measure, and append a record per row and seed."""
    torch.set_num_threads(1)
    with command_line.asking():
        plain = profile_row(profile)
        short = replace(plain, rounds=plain.critic_warmup + 1, heldout_proxy=False)  # the critic is kept as warmed up
        every = [Run(short, seed, root=runs, row=METHODS[name]) for seed in checked.seeds(seeds) for name in ROWS]
    for run in every:
        begun = time.perf_counter()
        record = {"kind": "fidelity", "profile": profile, "method": run.row.name, "seed": run.seed}
        record |= {"params": run.profile.to_dict(), "parts": measured(run)}
        write_record(out, record | {"provenance": provenance(run.seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
