"""Equal trials: the same grids for every method, on validation data of seeds that no result uses.

    python -m study.tuning reward-models --profile cpu
    python -m study.tuning policies --profile cpu --methods bandit,token,segment

Reward models: learning rate and score scale, scored by label accuracy on validation pairs. One setting serves all
granularities: the one with the best mean over them, so that none is favoured. The choice stands in `profiles.py`.

Policies: learning rate and KL coefficient (DPO: learning rate and beta; FIGA: learning rate, as many values; in rounds,
their own), over three seeds, each method for itself. A setting is chosen as one would without the truth: by the mean
score that the held-out proxy (`watched.py`) gives to sampled answers to validation prompts. What the truth would have
chosen stands beside it, and which choices lie on the edge of their grid, where a wider one might choose otherwise. The
choices stand in data/results/<profile>/choices.json, and `study --tuned` uses them; test prompts are not touched.

Both append to data/results/<profile>/tuning.jsonl and skip what is there.
"""

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from densereward.canonical import canonical
from study import command_line, runner
from study.cache import save_json
from study.identity import check_record, same_method
from study.measures import measure
from study.methods import CORE, METHODS, method
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, read_records, write_record
from study.run import Run

SEEDS = (1000, 1001, 1002)  # reward models: the first
GRANULARITIES = "bandit,token,segment"
REWARD_MODELS = {"rm_learning_rate": (5e-4, 1e-3, 2e-3), "rm_scale": (4.0, 16.0, 64.0)}
PAIRS = 8_000  # trials of reward models are shorter than the study's runs
_SAMPLING = {
    "kl_coef": (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.5),
    "actor_learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3),
}
POLICIES = {
    **dict.fromkeys(("ppo", "rloo", "grpo", "gtpo", "dense-grpo", "dense-rloo", "remax", "vine"), _SAMPLING),
    **dict.fromkeys(("dpo", "kto"), {"dpo_beta": (0.02, 0.05, 0.2, 0.8), "dpo_learning_rate": (3e-5, 1e-4, 3e-4)}),
    "online-dpo": {
        "online_dpo_beta": (0.01, 0.03, 0.1, 0.2, 0.3, 0.6, 1.0, 3.0),
        "online_learning_rate": (5e-5, 1e-4, 3e-4, 1e-3),
    },
    "rs": {"kl_coef": (0.02, 0.1, 0.5, 2.0), "online_learning_rate": (5e-5, 1e-4, 3e-4)},
    "figa": {"dpo_learning_rate": tuple(float(f"{x:.1e}") for x in np.geomspace(1e-6, 1e-3, 12))},
}

app = command_line.application()
ProfileName = Annotated[str, typer.Option(help="smoke, brief, small, cpu or gpu")]
Part = Annotated[str, typer.Option(help="i/n: every n-th trial from the i-th only, to share them among processes")]
Runs = Annotated[Path, typer.Option(help="where stages keep their artifacts")]
Out = Annotated[Path | None, typer.Option(help="folder of the records; default data/results/PROFILE")]


def settings(grid: dict) -> list[dict]:
    """Every combination of a grid, as fields of a profile."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def share_of(trials: list, part: str) -> list:
    """The trials of part "i/n": every n-th from the i-th. ValueError for another text, and for none left."""
    try:
        first, step = map(int, part.split("/"))
    except ValueError:
        first, step = -1, 0
    if not 0 <= first < step:
        raise ValueError(f"part is {part!r}; give i/n with 0 <= i < n, such as 0/2")
    if not trials[first::step]:
        raise ValueError(f"part is {part!r}, of {len(trials)} trials: none is left to do; give a smaller i")
    return trials[first::step]


def of_scorer(run: Run) -> dict:
    names = ("gate_validation", "pairs", "curve")
    return {"accuracy": run.metrics["accuracy_validation"]} | {name: run.metrics[name] for name in names}


def of_policy(run: Run) -> dict:
    final = measure.evaluate(run, split="validation")
    return {name: final.get(name) for name in ("heldout_proxy", "true_return", "kl", "length", "repetition")}


def trial(kind: str, changes: dict, run: Run, folder: Path, measured) -> None:
    """Append one trial to `folder`/tuning.jsonl unless it is there: `measured(run)` gives its numbers."""
    torch.set_num_threads(1)
    row = run.row
    path, started = folder / "tuning.jsonl", time.perf_counter()
    wanted = (f"{kind} trial", row.name, changes, run.seed)
    records = read_records(path, check_record) if path.exists() else []
    alike = (r for r in records if (r["kind"], r["method"], r.get("changes"), r["seed"]) == wanted)
    if any(same_method(r["params"]["method"], asdict(row)) for r in alike):
        return
    named = {"kind": wanted[0], "method": row.name, "changes": changes, "params": {"method": asdict(row)}}
    found = measured(run)
    origin = provenance(run.seed, "cpu", started)
    write_record(path, named | found | {"seed": run.seed, "profile": run.profile.name, "provenance": origin})
    print(row.name, changes, {name: value for name, value in found.items() if not isinstance(value, list)}, flush=True)


@app.command("reward-models")
def reward_models(
    profile: ProfileName = "cpu", part: Part = "0/1", runs: Runs = ROOT / "runs", out: Out = None
) -> None:
    """Trials of learning rate and score scale for bandit, token and segment reward models."""
    with command_line.asking():
        rows = map(method, GRANULARITIES.split(","))
        trials = share_of(list(itertools.product(rows, settings(REWARD_MODELS))), part)
        base = replace(profile_row(profile), committed_models=None)
    for row, changes in trials:
        p = replace(base, pairs=min(PAIRS, base.pairs), **changes)
        run = Run(p, SEEDS[0], root=runs, row=row)
        trial("reward model", changes, run, out or runner.RESULTS / profile, of_scorer)


@app.command()
def policies(
    profile: ProfileName = "cpu",
    methods: Annotated[str, typer.Option(help="comma-separated rows of methods.py")] = ",".join(CORE),
    part: Part = "0/1",
    runs: Runs = ROOT / "runs",
    out: Out = None,
) -> None:
    """Trials of learning rate and KL coefficient for each method, and the choices made of them."""
    with command_line.asking():
        folder, base = out or runner.RESULTS / profile, profile_row(profile, heldout_proxy=True)
        rows = [row for row in runner.rows_of(methods) if row.trainer != "none"]
        if not rows:
            raise ValueError(f"methods is {methods!r}: none of them is trained, so there is nothing to tune")
        trials = [(row, seed, changes) for row in rows for seed in SEEDS for changes in settings(POLICIES[row.trainer])]
        trials = share_of(trials, part)
        for row, seed, changes in trials:
            runner.check(Run(replace(base, **changes), seed, root=runs, row=row))
    for row, seed, changes in trials:
        trial("policy", changes, Run(replace(base, **changes), seed, root=runs, row=row), folder, of_policy)
    choose(folder)


def choose(folder: Path) -> None:
    """Write `choices.json` beside the trials: for each method with all its trials, the setting with the highest mean
    score of the held-out proxy over seeds (`choices`), that with the highest mean true return (`by_truth`), and which
    fields of its choice are the least or the largest of its grid (`edges`). A trial that was made twice counts once,
    one of a row that has changed since not at all."""
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for r in read_records(folder / "tuning.jsonl", check_record):
        row = METHODS.get(r["method"])
        if r["kind"] == "policy trial" and row and same_method(r["params"]["method"], asdict(row)):
            found.setdefault(r["method"], {}).setdefault(canonical(r["changes"]), {})[r["seed"]] = r
    made: dict[str, dict] = {"choices": {}, "by_truth": {}, "edges": {}}
    for method_name, by_setting in sorted(found.items()):
        grid = POLICIES[next(iter(next(iter(by_setting.values())).values()))["params"]["method"]["trainer"]]
        wanted = [by_setting.get(canonical(changes), {}) for changes in settings(grid)]
        if any(set(trials) < set(SEEDS) for trials in wanted):
            continue
        for name, metric in (("choices", "heldout_proxy"), ("by_truth", "true_return")):
            means = [np.mean([trials[seed][metric] for seed in SEEDS]) for trials in wanted]
            made[name][method_name] = settings(grid)[int(np.argmax(means))]
        chosen = made["choices"][method_name]
        made["edges"][method_name] = [x for x, values in grid.items() if chosen[x] in (min(values), max(values))]
    grids = {name: {field: list(values) for field, values in grid.items()} for name, grid in POLICIES.items()}
    save_json(folder / "choices.json", made | {"seeds": list(SEEDS), "grids": grids})


if __name__ == "__main__":
    app()
