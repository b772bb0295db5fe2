"""Process against outcome: a model of steps and a model of whole answers, each picking among sampled answers.

    python -m study.measures.process_outcome --profile cpu --seeds 0,1,2

Follows adaptive-mask Figure 2 and Appendix A on the testbed. The outcome model is the bandit reward model; the process
model (`step_model.py`) starts from the same SFT trunk and is told the credit of every step of as many answers as the
other is told preferences, with label noise of a stated size. It is used twice: aggregated as a score of whole answers
(best of n), and step by step (`stepwise.py`). Token and segment reward models are read as well.

Appends a record per seed to data/results/<profile>/best_of_n.jsonl, and skips the seeds that it holds. Left out: PPO on
the process model's rewards; the oracle controls show what dense truth with noise is worth there.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from datasets import Dataset, load_from_disk

from densereward import checked
from densereward.progress import progress
from densereward.reward import dense
from densereward.reward.segments import segment_ends
from densereward.seeding import derive, generator, seed_everything
from densereward.text import sampling
from densereward.text.models import TokenScorer, load_causal_lm, scorer_from, to_device
from densereward.text.tokens import collate_prompt_completion, tokenize_prompt
from densereward.training import labelled, step_model
from study import command_line
from study.cache import load_json, save_json
from study.identity import parameters, same
from study.measures import best_of_n, stepwise
from study.measures.credit import agreement
from study.methods import METHODS, Method
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, read_records, write_record
from study.run import Run
from study.sources import DATA, SCORING
from testbed import build, gold_steps, oracle, truth, world

OUTCOME = ("bandit", "token", "segment")  # Bradley-Terry rows, read as e(x, y) of segment-ppo Eq. 4
NOISES = (0.0, 1.0)  # deviation of a step's label, in credit; the second is that of the noisy oracle controls
NS = (1, 2, 4, 8, 16, 32)
SEARCHED = 32  # prompts that are searched step by step: every n samples anew


def name(noise: float, use: str) -> str:
    """What records call a process model, told with this label noise, in one of its uses."""
    return f"process-{noise:g}-{use}"


def process_model(run: Run, noise: float) -> tuple[Path, dict]:
    """(folder of the process model, its metrics on held-out pairs: correlation of step scores with true credit, label
    accuracy under each of AGGREGATES). Random: sides, label noise, order of the answers (seed)."""
    p = run.profile

    def build_process(folder: Path) -> None:
        policy, tokenizer = load_causal_lm(run.sft)
        draw = generator(run.seed, "process labels", str(noise))
        rows = step_labels(load_from_disk(run.preferences.path / "preference"), tokenizer, noise, draw)
        seed_everything(derive(run.seed, "process"))
        net = to_device(scorer_from(policy, step_model.ProcessModel, aggregate="sum"))
        step_model.train_process(
            net, tokenizer, rows, folder, derive(run.seed, "process") % 2**31, 2 * p.rm_batch, p.rm_learning_rate
        )
        found = held_out(net, tokenizer, load_from_disk(run.preferences.path / "test"))
        save_json(folder / "metrics.json", {"answers": len(rows), **found})

    key = run.key("pairs", "rm_batch", "rm_learning_rate", noise=noise)
    sources = [*DATA, *SCORING, step_model, labelled, gold_steps, best_of_n, step_labels, held_out]
    made = run.stage("process", build_process, key, sources, [run.sft, run.preferences])
    return made.path, load_json(made.path / "metrics.json")


def step_labels(rows: Dataset, tokenizer, noise: float, draw: torch.Generator) -> Dataset:
    """Answers with a label per token, of one side of each preference pair, chosen or rejected at even odds: columns
    prompt_ids, completion_ids, labels (credit at steps, with an annotator's error of deviation `noise`, drawn once per
    step and independent of all else; NO_STEP elsewhere). Random: `draw`. ValueError for negative noise."""
    if noise < 0:
        raise ValueError(f"noise is {noise}; give the deviation of a step's label in credit, 0 or more")
    side = torch.rand(len(rows), generator=draw) < 0.5
    sides = zip(side.tolist(), rows["chosen_completion_ids"][:], rows["rejected_completion_ids"][:], strict=True)
    completions = [chosen if first else rejected for first, chosen, rejected in sides]
    found = gold_steps.steps(tokenizer, [truth.text_of(tokenizer, ids) for ids in rows["prompt_ids"][:]], completions)
    noisy = found.credit + noise * torch.randn(found.credit.shape, generator=draw)
    labels = torch.where(found.ends, noisy, step_model.NO_STEP).tolist()
    return Dataset.from_dict(
        {
            "prompt_ids": rows["prompt_ids"][:],
            "completion_ids": completions,
            "labels": [row[: len(ids)] for row, ids in zip(labels, completions, strict=True)],
        }
    )


def held_out(net: TokenScorer, tokenizer, pairs: Dataset) -> dict:
    """How good a process model is: of its scores and true credits over all spans, correlation and sign agreement
    (`credit.agreement`); of pairs, the share that each aggregate ranks as the label does."""
    prompt_ids, sides = pairs["prompt_ids"][:], [pairs[f"{s}_completion_ids"][:] for s in ("chosen", "rejected")]
    read = [read_steps(net, tokenizer, prompt_ids, completions) for completions in sides]
    scores, credits = (np.concatenate([part[key] for part in read]) for key in ("score", "credit"))
    found = {f"step_{key}": value for key, value in agreement(scores, credits).items()}
    for how in best_of_n.AGGREGATES:
        found[f"accuracy_{how}"] = float(np.mean((np.sign(read[0][how] - read[1][how]) + 1) / 2))
    return found


@torch.no_grad()
def read_steps(net: TokenScorer, tokenizer, prompt_ids, completions, size: int = 256) -> dict[str, np.ndarray]:
    """A process model on answers: under each of AGGREGATES a score of every answer, [N]; `score` and true `credit` of
    every span, [M]."""
    net.eval()
    prompts = [truth.text_of(tokenizer, ids) for ids in prompt_ids]
    out: dict[str, list] = {key: [] for key in (*best_of_n.AGGREGATES, "score", "credit")}
    for start in progress("scores, batches", range(0, len(prompts), size)):
        part = slice(start, start + size)
        found = gold_steps.steps(tokenizer, prompts[part], completions[part])
        rows = [
            {"prompt_ids": p, "completion_ids": c} for p, c in zip(prompt_ids[part], completions[part], strict=True)
        ]
        batch = collate_prompt_completion(rows, tokenizer.pad_token_id)
        scores = dense.token_scores(net, {key: x.to(net.device) for key, x in batch.items()}).cpu()
        for how, aggregate in best_of_n.AGGREGATES.items():
            out[how].append(aggregate(scores, found.spans, found.ends).numpy())
        out["score"].append(scores[found.spans].double().numpy())
        out["credit"].append(found.credit[found.spans].double().numpy())
    return {key: np.concatenate(parts) for key, parts in out.items()}


@torch.no_grad()
def read_outcomes(nets: dict, policy, tokenizer, prompt_ids, completions, size: int = 256) -> dict[str, np.ndarray]:
    """e(x, y) of answers under reward models (name: (row, scorer)), [N] each; `policy` gives the entropies."""
    out: dict[str, list] = {key: [] for key in nets}
    for start in progress("scores, batches", range(0, len(completions), size)):
        part = slice(start, start + size)
        batch = sampling.batch_of(policy, tokenizer, prompt_ids[part], completions[part])
        for key, (row, net) in nets.items():
            ends = segment_ends(dense.segment_ids(row.segmentation, batch, tokenizer))
            out[key].append(net.aggregate(dense.token_scores(net, batch), ends).cpu().numpy())
    return {key: np.concatenate(parts) for key, parts in out.items()}


def measured(run: Run, samples: int, searched: int, noises=NOISES, ns=NS) -> dict:
    """What a record holds of one seed: for each reader the true return of the best of each n at each prompt (`values`,
    P x len(n)) and the chance that it is right (`accuracy`: everything that was asked for, and no fault), of `samples`
    answers per test prompt; the same of answers searched step by step, for the first `searched` prompts (`search`,
    `search_accuracy`); levels of the models. Random: samples, labels (seed)."""
    p, ns = run.profile, [n for n in ns if n <= samples]
    policy, tokenizer = load_causal_lm(run.sft)
    policy = to_device(policy).eval()
    texts = world.few_prompts(p.world, "test", p.eval_prompts)
    prompt_ids = [tokenize_prompt(tokenizer, build.messages(text)) for text in texts]
    every = [ids for ids in prompt_ids for _ in range(samples)]
    made = sampling.sample(policy, tokenizer, every, p.max_completion_length, derive(run.seed, "best of n"))
    worth, right = np.array([judged(run, tokenizer, texts[i // samples], ids) for i, ids in enumerate(made)]).T

    def score(row: Method):
        own = run.of(row)
        levels[row.name] = {key: own.metrics[f"{key}_test"] for key in ("accuracy", "truth")}
        return row, to_device(TokenScorer.from_pretrained(own.scorer, dtype=torch.float32)).eval()

    levels: dict[str, dict] = {}
    nets = {key: score(METHODS[key]) for key in OUTCOME}
    scores = read_outcomes(nets, policy, tokenizer, every, made) | {"oracle": worth}
    few, search, search_right = prompt_ids[:searched], {}, {}
    judges = {"oracle": stepwise.by_oracle(tokenizer, texts[:searched])}
    for noise in noises:
        folder, levels[name(noise, "steps")] = process_model(run, noise)
        net = to_device(step_model.ProcessModel.from_pretrained(folder, dtype=torch.float32)).eval()
        found = read_steps(net, tokenizer, every, made)
        scores |= {name(noise, how): found[how] for how in best_of_n.AGGREGATES}
        judges[name(noise, "steps")] = stepwise.by_scorer(net, tokenizer, few)
    for key, judge in judges.items():
        search[key], search_right[key] = np.zeros((2, len(few), len(ns)))
        for i, n in enumerate(ns):
            draw = derive(run.seed, "search", str(n))
            answers = stepwise.search(policy, tokenizer, few, judge, n, p.max_completion_length, draw)
            pairs = zip(texts[:searched], answers, strict=True)
            found = np.array([judged(run, tokenizer, text, ids) for text, ids in pairs])
            search[key][:, i], search_right[key][:, i] = found.T

    def picked(outcome: np.ndarray) -> dict:
        """Of each reader's best of n, [P, len(ns)], the expected `outcome` (one per answer)."""
        table = outcome.reshape(-1, samples)
        found = {key: best_of_n.best_of(x.reshape(-1, samples), table, ns) for key, x in scores.items()}
        return {key: x.round(3) for key, x in found.items()}

    return {
        "ns": ns,
        "samples": samples,
        "length": float(np.mean([len(ids) for ids in made])),
        "values": picked(worth),
        "accuracy": picked(right),
        "search": {key: x.round(3) for key, x in search.items()},
        "search_accuracy": search_right,
        "levels": levels,
        "tokens": sum(map(len, made)),
    }


def judged(run: Run, tokenizer, prompt: str, ids: list[int]) -> tuple[float, float]:
    """(true return, 1 or 0: whether it is right) of an answer: everything that was asked for, and no fault."""
    found = oracle.summary(prompt, truth.text_of(tokenizer, ids))
    whole = found["return_whole"] == 3.0 and found["finished"] == 1.0  # the former lets a missing full stop pass
    return found[f"return_{run.profile.world.returns}"], float(whole)


def main(
    profile: Annotated[str, typer.Option(help="smoke, brief, small, cpu or gpu: sizes and hyperparameters")] = "cpu",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds")] = "0,1,2",
    samples: Annotated[int, typer.Option(help="answers per prompt, the largest n or more", min=max(NS))] = max(NS),
    searched: Annotated[int, typer.Option(help="prompts that are searched step by step", min=1)] = SEARCHED,
    out: Annotated[Path | None, typer.Option(help="records file; default data/results/PROFILE/best_of_n.jsonl")] = None,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Write a record per seed; what is recorded already is skipped."""
    torch.set_num_threads(1)
    path = out or ROOT / "data" / "results" / profile / "best_of_n.jsonl"
    with command_line.asking():
        asked = [Run(profile_row(profile), seed, root=runs) for seed in checked.seeds(seeds)]
        command_line.records_file(path)
    for run in asked:
        seed, started = run.seed, time.perf_counter()
        wanted = parameters(run.of("bandit"))
        alike = [r for r in (read_records(path) if path.exists() else []) if r["seed"] == seed]
        if any(same(r["params"], wanted) and (r["samples"], r["searched"]) == (samples, searched) for r in alike):
            print(f"seed {seed}: recorded already in {path}", flush=True)
            continue
        found = measured(run, samples, searched)
        tokens = found.pop("tokens")
        record = {"kind": "best of n", "method": "bandit", "profile": profile, "dataset": run.dataset, "seed": seed}
        record |= {"params": wanted, "searched": searched, "noises": list(NOISES), **found}
        write_record(path, record | {"provenance": provenance(seed, device(), started, tokens=tokens)})


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


app = command_line.command(main)

if __name__ == "__main__":
    app()
