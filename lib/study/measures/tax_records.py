"""What training costs on the testbed's own tasks, as records: of every trained policy of a profile that lies on disk.

    python -m study.measures.tax_records --profile small --seeds 0,1,2,3 --runs runs

Trains nothing. A policy is found by its stage's manifest, which says row, seed and settings, whatever code is here
today; a record names stage and commit of what it measured. Within a seed all rows are asked the same questions. What it
must show is in book/judging.md.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from densereward import checked
from densereward.text.models import load_causal_lm, to_device
from study import command_line
from study.cache import MANIFEST, load_json
from study.measures import benchmarks
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, write_record
from study.run import Run

RECORDS = ROOT / "data" / "results" / "tax.jsonl"
ASKED = 500  # questions a seed


class Trained(NamedTuple):
    """A policy on disk: its row's name, the seed (None: shared by all), its folder, its stage's manifest."""

    method: str
    seed: int | None
    folder: Path
    manifest: dict


def trained(run: Run) -> Iterator[Trained]:
    """The SFT model and every policy below the run's root that was trained at its profile, on the testbed, from the
    tiny model; those of other settings are passed over."""
    for path in sorted((run.root / "stages").glob(f"*/{MANIFEST}")):
        manifest = load_json(path)
        key, name = manifest["key"], manifest["name"]
        folder = path.parent if name == "sft" else path.parent / "policy"
        if not (folder / "config.json").exists() or not all(hasattr(run.profile, x) for x in key["profile"]):
            continue
        asked = replace(run, seed=key["seed"] or 0).key(*key["profile"], seeded=key["seed"] is not None)
        further = key.keys() - asked.keys()  # of a stage whose key holds no row, its name is the row's
        if {x: key[x] for x in asked} == asked and ("method" in key or not further):
            yield Trained(key["method"]["name"] if "method" in key else name, key["seed"], folder, manifest)


def measured(folder: Path, asked: list[dict]) -> dict[str, dict]:
    """A policy's result on each of `benchmarks.LOCAL`."""
    policy, tokenizer = load_causal_lm(folder)
    policy = to_device(policy).eval()
    found = (task(policy, tokenizer, asked) for task in (benchmarks.accuracy, benchmarks.covered))
    return dict(zip(benchmarks.LOCAL, found))


def main(
    profile: Annotated[str, typer.Option(help="whose policies")] = "small",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds; rows that lack one are left out")] = "0,1,2,3",
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Measure, and append a record per row and seed."""
    torch.set_num_threads(1)
    with command_line.asking():
        run, wanted = Run(profile_row(profile), root=runs), checked.seeds(seeds)
        policies = {(x.method, seed): x for x in trained(run) for seed in (wanted if x.seed is None else [x.seed])}
        names = [n for n in dict.fromkeys(name for name, _ in policies) if all((n, s) in policies for s in wanted)]
        if not names:
            raise ValueError(f"{runs} holds no row of profile {profile} with seeds {seeds}; make study trains them")
    for seed in wanted:
        asked = benchmarks.questions(run.profile.world, ASKED, seed)
        for name in names:
            begun, found = time.perf_counter(), policies[name, seed]
            made = {"stage": found.manifest["hash"][:12], "commit": found.manifest["provenance"]["commit"]}
            record = {"kind": "tax", "method": name, "profile": profile, "seed": seed, "policy": made}
            record |= {"params": run.profile.to_dict(), "tasks": measured(found.folder, asked)}
            write_record(out, record | {"provenance": provenance(seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
