"""Equal trials: the same grids for every method, on validation data of a seed that no result uses.

    python -m densereward.tuning reward-models --profile cpu
    python -m densereward.tuning policies --profile cpu --methods bandit,token,segment

Reward models: learning rate and score scale, scored by label accuracy on validation pairs. One setting serves all
granularities: the one with the best mean over them, so that none is favoured. The choice stands in `profiles.py`.

Policies: learning rate and KL coefficient (DPO: learning rate and beta; FIGA: learning rate, as many values; in rounds,
their own), scored by the true return of sampled answers to validation prompts, each method for itself. The choices
stand in data/results/<profile>/choices.json, and `study --tuned` uses them. Choosing by the truth gives every method
its best, which no proxy would show; test prompts are not touched.

Both append to data/results/<profile>/tuning.jsonl and skip what is there.
"""

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from densereward import pipeline, study
from densereward.evaluation import measure
from densereward.identity import same_method
from densereward.methods import CORE, Method, method
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import provenance, read_records, write_record
from densereward.stages import save_json

SEED = 1000
GRANULARITIES = "bandit,token,segment"
REWARD_MODELS = {"rm_learning_rate": (5e-4, 1e-3, 2e-3), "rm_scale": (4.0, 16.0, 64.0)}
PAIRS = 8_000  # trials of reward models are shorter than the study's runs
_SAMPLING = {"kl_coef": (0.1, 0.5, 2.0), "actor_learning_rate": (1e-4, 3e-4)}
POLICIES = {
    **dict.fromkeys(("ppo", "rloo", "grpo", "dense-grpo", "dense-rloo", "remax"), _SAMPLING),
    **dict.fromkeys(("dpo", "kto"), {"dpo_beta": (0.05, 0.2, 0.8), "dpo_learning_rate": (1e-4, 3e-4)}),
    "online-dpo": {"online_dpo_beta": (0.1, 0.5, 2.0), "online_learning_rate": (1e-4, 3e-4)},
    "rs": {"kl_coef": (0.1, 0.5, 2.0), "online_learning_rate": (1e-4, 3e-4)},
    "figa": {"dpo_learning_rate": (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)},
}

app = typer.Typer(pretty_exceptions_show_locals=False)
ProfileName = Annotated[str, typer.Option(help="smoke, cpu or gpu")]
Part = Annotated[str, typer.Option(help="i/n: every n-th trial from the i-th only, to share them among processes")]
Runs = Annotated[Path, typer.Option(help="where stages keep their artifacts")]
Out = Annotated[Path | None, typer.Option(help="folder of the records; default data/results/PROFILE")]


def settings(grid: dict) -> list[dict]:
    """Every combination of a grid, as fields of a profile."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def trial(kind: str, row: Method, changes: dict, p, folder: Path, measured) -> None:
    """Append one trial to `folder`/tuning.jsonl unless it is there: `measured(run)` gives its numbers."""
    torch.set_num_threads(1)
    path, started = folder / "tuning.jsonl", time.perf_counter()
    wanted = (f"{kind} trial", row.name, changes)
    records = read_records(path) if path.exists() else []
    alike = (r for r in records if (r["kind"], r["method"], r["changes"]) == wanted)
    if any(same_method(r["params"]["method"], asdict(row)) for r in alike):
        return
    named = {"kind": wanted[0], "method": row.name, "changes": changes, "params": {"method": asdict(row)}}
    found = measured(p)
    write_record(
        path, named | found | {"seed": SEED, "profile": p.name, "provenance": provenance(SEED, "cpu", started)}
    )
    print(row.name, changes, {name: value for name, value in found.items() if not isinstance(value, list)}, flush=True)


@app.command("reward-models")
def reward_models(
    profile: ProfileName = "cpu", part: Part = "0/1", runs: Runs = pipeline.ROOT / "runs", out: Out = None
) -> None:
    """Trials of learning rate and score scale for bandit, token and segment reward models."""
    first, step = map(int, part.split("/"))
    trials = list(itertools.product(map(method, GRANULARITIES.split(",")), settings(REWARD_MODELS)))
    base = replace(profile_row(profile), committed_models=None)
    for row, changes in trials[first::step]:

        def measured(p, row=row) -> dict:
            run = Run(p, SEED, root=runs)
            sft = pipeline.sft_model(run)
            metrics = pipeline.scorer(run, row, sft, pipeline.preferences(run, sft))[1]
            return {"accuracy": metrics["accuracy_validation"]} | {
                name: metrics[name] for name in ("gate_validation", "pairs", "curve")
            }

        p = replace(base, pairs=min(PAIRS, base.pairs), **changes)
        trial("reward model", row, changes, p, out or study.RESULTS / profile, measured)


@app.command()
def policies(
    profile: ProfileName = "cpu",
    methods: Annotated[str, typer.Option(help="comma-separated rows of methods.py")] = ",".join(CORE),
    part: Part = "0/1",
    runs: Runs = pipeline.ROOT / "runs",
    out: Out = None,
) -> None:
    """Trials of learning rate and KL coefficient for each method, and the choices made of them."""
    first, step = map(int, part.split("/"))
    rows = [row for row in map(method, methods.split(",")) if row.trainer != "none"]
    folder, base = out or study.RESULTS / profile, profile_row(profile)
    trials = [(row, changes) for row in rows for changes in settings(POLICIES[row.trainer])]
    for row, changes in trials[first::step]:

        def measured(p, row=row) -> dict:
            run = Run(p, SEED, root=runs)
            sft, trained, _ = study.trained(run, row)
            final = measure.evaluate(run, sft, trained.path / "policy", split="validation")
            return {name: final[name] for name in ("true_return", "kl", "length", "repetition")}

        trial("policy", row, changes, replace(base, **changes), folder, measured)
    choose(folder)


def choose(folder: Path) -> None:
    """Write `choices.json` beside the trials: for each method with all its trials, the setting of the highest true
    return."""
    found = [r for r in read_records(folder / "tuning.jsonl") if r["kind"] == "policy trial"]
    trials = {name: [r for r in found if r["method"] == name] for name in sorted({r["method"] for r in found})}
    whole = {
        m: rs for m, rs in trials.items() if len(rs) == len(settings(POLICIES[rs[0]["params"]["method"]["trainer"]]))
    }
    choices = {m: max(rs, key=lambda r: r["true_return"])["changes"] for m, rs in whole.items()}
    grids = {name: {field: list(values) for field, values in grid.items()} for name, grid in POLICIES.items()}
    save_json(folder / "choices.json", {"choices": choices, "seed": SEED, "grids": grids})


if __name__ == "__main__":
    app()
