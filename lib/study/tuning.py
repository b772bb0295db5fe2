"""Equal trials: the same grids for every method, on validation data of seeds that no result uses.

    python -m study.tuning reward-models --profile cpu
    python -m study.tuning policies --profile cpu --methods bandit,token,segment
    python -m study.tuning policies --profile cpu --methods dpo --grid '{"dpo_beta": [3], "dpo_learning_rate": [1e-3]}'
    python -m study.tuning proxies --profile cpu --methods bandit,token,segment

Reward models: learning rate and score scale, scored by label accuracy on validation pairs. One setting serves all
granularities: the one with the best mean over them, so that none is favoured. The choice stands in `profiles.py`.

Policies: learning rate and KL coefficient (DPO: learning rate and beta; FIGA: learning rate, as many values; in rounds,
their own), over three seeds, each method for itself. A setting is chosen as one would without the truth: by the mean
score that the held-out proxy (`watched.py`) gives to sampled answers to validation prompts. What caution
(`choosing.cautious`) and the truth would have chosen stands beside it. The choices stand in
data/results/<profile>/choices.json, and `study --tuned` uses them; test prompts are not touched.

Proxies: the same answers of the same policies, scored by held-out reward models of other kinds and of other pairs.
The proxy above is a bandit's, and may share the bandit's blind spots: do judges of other kinds choose better?

All append to data/results/<profile>/tuning.jsonl and skip what is there.
"""

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from densereward import checked
from densereward.text.models import TokenScorer, load_causal_lm, to_device
from study import choosing, command_line, runner
from study.cache import save_json
from study.identity import check_record, same_method
from study.measures import measure
from study.measures.process_outcome import read_outcomes
from study.methods import CORE, method
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, read_records, write_record
from study.run import Run

GRANULARITIES = "bandit,token,segment"
REWARD_MODELS = {"rm_learning_rate": (5e-4, 1e-3, 2e-3), "rm_scale": (4.0, 16.0, 64.0)}
PAIRS = 8_000  # trials of reward models are shorter than the study's runs
PROXIES = {  # the row whose reward model it is, and how many seeds further its pairs are; the first is the choices'
    "bandit": ("bandit", 1),
    "another bandit": ("bandit", 2),
    "segment": ("segment", 1),
    "token": ("token", 1),
}
CORE_ROWS = ",".join(CORE)

app = command_line.application()
ProfileName = Annotated[str, typer.Option(help="smoke, brief, small, cpu or gpu")]
Methods = Annotated[str, typer.Option(help="comma-separated rows of methods.py")]
Part = Annotated[str, typer.Option(help="i/n: every n-th trial from the i-th only, to share them among processes")]
Runs = Annotated[Path, typer.Option(help="where stages keep their artifacts")]
Out = Annotated[Path | None, typer.Option(help="folder of the records; default data/results/PROFILE")]


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


def of_proxies(run: Run) -> dict:
    """The mean score that each of PROXIES gives to the answers of `of_policy`."""
    nets = {}
    for name, (row, further) in PROXIES.items():
        folder = replace(run, row=method(row), seed=run.seed + further).scorer
        nets[name] = (method(row), to_device(TokenScorer.from_pretrained(folder, dtype=torch.float32)).eval())
    found, reference = measure.sampled(run, "validation"), to_device(load_causal_lm(run.sft)[0]).eval()
    scores = read_outcomes(nets, reference, found.tokenizer, found.prompts, found.answers)
    return {"proxies": {name: float(x.mean()) for name, x in scores.items()}}


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
        trials = share_of(list(itertools.product(rows, choosing.settings(REWARD_MODELS))), part)
        base = replace(profile_row(profile), committed_models=None)
    for row, changes in trials:
        p = replace(base, pairs=min(PAIRS, base.pairs), **changes)
        run = Run(p, choosing.SEEDS[0], root=runs, row=row)
        trial("reward model", changes, run, out or runner.RESULTS / profile, of_scorer)


@app.command()
def policies(
    profile: ProfileName = "cpu",
    methods: Methods = CORE_ROWS,
    part: Part = "0/1",
    runs: Runs = ROOT / "runs",
    out: Out = None,
    grid: Annotated[
        str,
        typer.Option(
            help="a grid beside the method's, which it is chosen of too, as JSON: its fields, each with a list"
        ),
    ] = "",
) -> None:
    """Trials of learning rate and KL coefficient for each method, and the choices made of them."""
    folder, trials = asked(profile, methods, part, runs, out, grid)
    for run, changes in trials:
        trial("policy", changes, run, folder, of_policy)
    choose(folder)


@app.command()
def proxies(
    profile: ProfileName = "cpu",
    methods: Methods = CORE_ROWS,
    part: Part = "0/1",
    runs: Runs = ROOT / "runs",
    out: Out = None,
) -> None:
    """What held-out reward models of other kinds say of the answers of `policies`' trials."""
    folder, trials = asked(profile, methods, part, runs, out)
    for run, changes in trials:
        trial("proxy", changes, run, folder, of_proxies)


def asked(
    profile: str, methods: str, part: str, runs: Path, out: Path | None, grid: str = ""
) -> tuple[Path, list[tuple[Run, dict]]]:
    """(folder of the records, the part's trials of policies with what each changes), checked."""
    with command_line.asking():
        rows = [row for row in runner.rows_of(methods) if row.trainer != "none"]
        if not rows:
            raise ValueError(f"methods is {methods!r}: none of them is trained, so there is nothing to tune")
        grids = {row.name: choosing.POLICIES[row.trainer] for row in rows}
        if grid:
            given = checked.as_object(grid, "grid")
            for name, fields in grids.items():
                if given.keys() != fields.keys() or not all(isinstance(x, list) and x for x in given.values()):
                    raise ValueError(f"grid is {grid!r:.80}; for {name} give lists of values of {', '.join(fields)}")
            grids = dict.fromkeys(grids, given)
        settings = {name: choosing.settings(fields) for name, fields in grids.items()}
        trials = [(row, seed, changes) for row in rows for seed in choosing.SEEDS for changes in settings[row.name]]
        made = [
            (Run(profile_row(profile, heldout_proxy=True, **changes), seed, root=runs, row=row), changes)
            for row, seed, changes in share_of(trials, part)
        ]
        for run, _ in made:
            runner.check(run)
        return out or runner.RESULTS / profile, made


def choose(folder: Path) -> None:
    """Write the `choices` of a folder's trials beside them, with the grids that they are of."""
    grids = {name: {field: list(values) for field, values in grid.items()} for name, grid in choosing.POLICIES.items()}
    made = choosing.choices(read_records(folder / "tuning.jsonl", check_record))
    save_json(folder / "choices.json", made | {"seeds": list(choosing.SEEDS), "grids": grids})


if __name__ == "__main__":
    app()
