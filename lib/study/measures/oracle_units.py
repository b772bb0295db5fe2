"""The unit in which the oracle was paid in each world of the map, as records: credits per unit of reward, from what its
trained policies have beside them.

    python -m study.measures.oracle_units --runs runs

Trains nothing: a stage's manifest says of which world and seed it is (`stages/reward.py` writes the unit).
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from study import command_line
from study.cache import MANIFEST, load_json
from study.records import ROOT, provenance, write_record

RECORDS = ROOT / "data" / "results" / "map-units" / "units.jsonl"


def units(runs: Path) -> list[dict]:
    """A record for each world and seed of which an oracle's policy lies below `runs`."""
    found = {}
    for path in sorted((runs / "stages").glob("*/unit.json")):
        made = load_json(path.parent / MANIFEST)
        world, seed = made["key"]["dataset"], made["key"]["seed"]
        key = {"parts": world["parts"], "returns": world["returns"], "seed": seed}
        found[tuple(key.values())] = key | {"unit": load_json(path), "commit": made["provenance"]["commit"]}
    return [found[key] for key in sorted(found)]


def main(
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Append a record per world and seed."""
    begun = time.perf_counter()
    with command_line.asking():
        if not (found := units(runs)):
            raise ValueError(f"{runs} holds no policy that the oracle paid; python -m study.density_map trains them")
        command_line.records_file(out)
    for record in found:
        write_record(out, {"kind": "unit"} | record | {"provenance": provenance(record["seed"], "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
