"""A map of where density pays: horizon x preference pairs x price of an item too many x lambda, for the bandit, entropy
segments, tokens and the truth in time, in runs of a quarter of the comparison's rollouts.

    python -m study.density_map --seeds 0

makes what is missing, cell by cell, in one process; several may work on different seeds side by side. The truth needs
no pairs: its runs stand at the larger number of them and serve both.

Left out: settings of each cell's own; longer answers than two kinds at once; returns that are no sum of credits.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from densereward import checked
from study import command_line
from study.identity import of_testbed, same
from study.methods import LEARNED, METHODS
from study.profiles import profile as profile_row
from study.record import done, recorded
from study.records import ROOT, latest
from study.run import Run
from study.runner import one_by_one

RESULTS = ROOT / "data" / "results" / "map" / "runs.jsonl"
SMALL = {  # 1,024 answers a run
    "rounds": 32,
    "rollouts": 32,
    "critic_warmup": 4,
    "heldout_proxy": False,
    "eval_prompts": 128,
    "heldout_pairs": 500,
    "credit_responses": 8,
    "credit_samples": 4,
}
HORIZONS = (  # about 32 and 56 tokens an answer
    {"world": {}},
    {"world": {"kinds": 4, "parts": 2}, "max_completion_length": 192},
)
PAIRS, PRICES, LAMBDAS = (4_000, 500), (-1.0, -0.2, 0.0, 0.2), (1.0, 0.8)
METHODS_OF_MAP = ("sft", "oracle-dense", "oracle-sequence", "bandit", "segment", "token")


def cells() -> list[dict]:
    """The axes of every cell, `horizon` (its parts), `pairs`, `price`, `lam`, in the order in which they are run."""
    axes = itertools.product(PAIRS, range(1, len(HORIZONS) + 1), LAMBDAS, PRICES)
    return [{"horizon": horizon, "pairs": pairs, "price": price, "lam": lam} for pairs, horizon, lam, price in axes]


def changes(horizon: int, pairs: int, price: float, lam: float) -> dict:
    """What a cell changes of profile `cpu`."""
    at = HORIZONS[horizon - 1]
    world = {**at["world"], "returns": f"excess{price:+.1f}"}
    return {**SMALL, **at, "world": world, "pairs": pairs, "lam": lam}


def learned(name: str) -> bool:
    """Whether a row's reward is learned from pairs."""
    return METHODS[name].scorer in LEARNED


def methods(pairs: int) -> tuple[str, ...]:
    """The rows of a cell; what learns from no pairs stands at the larger number of them alone."""
    return tuple(m for m in METHODS_OF_MAP if pairs == max(PAIRS) or learned(m))


def found(records: list[dict], cell: dict) -> list[dict]:
    """The records of a cell, the newest of each method and seed, the truth's among them."""
    kept = []
    for name in METHODS_OF_MAP:
        at = cell if learned(name) else cell | {"pairs": max(PAIRS)}
        wanted = of_testbed(profile_row("cpu", **changes(**at)), METHODS[name])
        kept += [r for r in records if r["kind"] == "run" and r["method"] == name and same(r["params"], wanted)]
    return latest(kept, ("method", "seed"))


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
    out.parent.mkdir(parents=True, exist_ok=True)
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
