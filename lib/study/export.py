"""Puts the models that the smoke book starts from into data/models/<profile>: the SFT model and one seed's scorers.

    python -m study.export --profile cpu --seed 0

Weights are kept in half precision, which halves what a clone carries; held-out accuracy is measured again with them,
and a scorer that fails its gate then is not exported. The gate is on preference labels, which a discriminator is not
trained on: it must tell edited tokens apart better than the larger label does. Beside a model's files go its card and
their hashes, which are checked wherever it is loaded.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from datasets import load_from_disk

from densereward import checked
from densereward.text.models import TokenScorer, load_causal_lm, seal
from densereward.training import discriminator as D
from densereward.training import reward_model
from study import cards, command_line
from study.cache import load_json, save_json
from study.methods import LEARNED, method
from study.profiles import models_folder
from study.profiles import profile as profile_row
from study.records import ROOT
from study.run import Run


def main(
    profile: Annotated[str, typer.Option(help="the profile whose models to export")] = "cpu",
    seed: Annotated[int, typer.Option(help="the seed of the scorers")] = 0,
    methods: Annotated[str, typer.Option(help="comma-separated rows of methods.py")] = "bandit,token,segment,tlcr",
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Export the SFT model and the scorers of one seed (stages that exist are reused). What is there stays until all of
    it is made anew, whatever stops this."""
    with command_line.asking():
        names = checked.listed(methods, "methods")
        target, run = models_folder(profile), Run(profile_row(profile), seed, root=runs)
        check(run, names, target)
    with replaced(target) as made:
        write(run, names, made)


def check(run: Run, names: list[str], target: Path) -> None:
    """Raises ValueError for what cannot be exported, before anything is trained or touched."""
    if not run.root.is_dir():
        raise ValueError(f"runs is {run.root}, no folder: all would be trained anew; run the study first, or mend it")
    if run.profile.committed_models:
        other = run.profile.committed_models
        raise ValueError(f"profile {run.profile.name!r} starts from the models of {other!r}; export those")
    if unfit := [name for name in names if method(name).scorer not in LEARNED]:
        raise ValueError(f"method {unfit[0]!r} has no scorer that is trained; leave it out")
    if gone := {path.parent.name for path in target.glob("*/metrics.json")} - set(names):
        raise ValueError(f"{target} has scorers of {', '.join(sorted(gone))} too: name them, or remove their folders")


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` once the block is done; what was there stays if it is not."""
    made, old = (target.with_name(f"{target.name}.{what}") for what in ("partial", "old"))
    if old.exists() and not target.exists():  # a process was killed between the two renames below
        old.rename(target)
    for folder in (made, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield made
        if target.exists():
            target.rename(old)
        made.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write(run: Run, methods: list[str], target: Path) -> None:
    """The SFT model and the scorers of `methods` in half precision, in the folder `target`. SystemExit for a scorer
    that fails its gate."""
    model, tokenizer = load_causal_lm(run.sft)
    model.half().save_pretrained(target / "sft")
    tokenizer.save_pretrained(target / "sft")
    for name in methods:
        own = run.of(method(name))
        row, metrics = own.row, own.metrics
        TokenScorer.from_pretrained(own.scorer, dtype=torch.float32).half().save_pretrained(target / name)
        half = TokenScorer.from_pretrained(target / name, dtype=torch.float32)
        for split in ("validation", "test"):
            rows = reward_model.with_segments(load_from_disk(own.pairs.path / split), row, tokenizer, run.seed)
            margins = reward_model.margins(half, rows, tokenizer.pad_token_id)
            metrics[f"accuracy_{split}"] = float(np.mean((np.sign(margins) + 1) / 2))
            if row.scorer == "discriminator":
                labelled = own.revisions.path / "labelled" / split
                p, labels = D.probabilities(half, load_from_disk(labelled), tokenizer.pad_token_id)
                metrics |= {f"{key}_{split}": x for key, x in D.discriminator_metrics(p, labels).items()}
        told = ("edited_accuracy", "edited_majority") if row.scorer == "discriminator" else ("accuracy", "gate")
        reached, least = (metrics[f"{what}_validation"] for what in told)
        if reached < least:
            raise SystemExit(f"{name}: {told[0]} {reached:.3f} is below {told[1]} {least:.3f}: not exported")
        origin = load_json(own.scorer / "manifest.json")["provenance"]
        save_json(target / name / "metrics.json", {**metrics, "seed": run.seed, "provenance": origin})
        print(name, json.dumps({k: v for k, v in metrics.items() if k.startswith("accuracy")}), flush=True)
    save_json(target / "sft" / "provenance.json", load_json(run.sft / "manifest.json")["provenance"])
    for folder in target.iterdir():
        describe(run, folder)
        seal(folder)


def describe(run: Run, folder: Path) -> None:
    """The card of an exported model: what the run says of it, and what lies in its folder."""
    own, sft = run.of(folder.name), folder.name == "sft"
    trained = "sft" if sft else "discriminator" if own.row.scorer == "discriminator" else "scorer"
    origin = load_json(folder / "provenance.json") if sft else load_json(folder / "metrics.json")["provenance"]
    told = {"weights": "half precision", "trained by": f"the code of commit {origin['commit']}, in float32"}
    if not sft:
        told["measured"] = "in `metrics.json`: held-out accuracy with these weights, curves and truth in float32"
    (folder / "README.md").write_text(str(cards.card(own, trained, **told)))


app = command_line.command(main)

if __name__ == "__main__":
    app()
