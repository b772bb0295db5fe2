"""A map of where density pays: horizon x preference pairs x price of an item too many x lambda, for the bandit, entropy
segments, tokens and the truth in time, in runs of a quarter of the comparison's rollouts (`density_cells.py`).

    python -m study.density_map --seeds 0

makes what is missing, cell by cell, in one process; several may work on different seeds side by side. The truth needs
no pairs: its runs stand at the larger number of them and serve both.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from densereward import checked
from study import command_line
from study.density_cells import cells, changes, methods
from study.methods import METHODS
from study.profiles import profile as profile_row
from study.record import done, recorded
from study.records import ROOT
from study.run import Run
from study.runner import one_by_one

RESULTS = ROOT / "data" / "results" / "map" / "runs.jsonl"


def main(
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1",
    out: Annotated[Path, typer.Option(help="records file")] = RESULTS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Run what the map lacks; what is recorded already is skipped. A run that fails is recorded, and makes the exit
    code 1."""
    with command_line.asking():
        first = [replace(Run(profile_row("cpu", **changes(**cell))), root=runs) for cell in cells()]
        numbers = checked.seeds(seeds)
        recorded(command_line.records_file(out))
    failed = []
    for i, (run, cell) in enumerate(zip(first, cells(), strict=True), 1):
        records = recorded(out)
        every = [replace(run, seed=seed, row=METHODS[m]) for seed in numbers for m in methods(cell["pairs"])]
        todo = [r for r in every if not done(records, r)]
        print(f"cell {i} of {len(first)}, {cell}: {len(todo)} of {len(every)} runs to do", flush=True)
        failed += one_by_one(todo, out, "run")
    if failed:
        raise SystemExit(1)


app = command_line.command(main)

if __name__ == "__main__":
    app()
