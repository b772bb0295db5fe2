"""What claims of the ledger ask of trained policies and of their scorers, beyond what a run's record holds: as records.

    python -m study.measures.ledger_records --profile brief --seeds 0,1,2 --runs runs

Trains nothing: policies are found on disk as `tax_records` finds them, the scorer that paid one among its stage's
inputs. All is read on dialogues as those that SFT was trained on, of prompts held out for test; within a seed all rows
are asked the same. Left out: what answers of the trained policies themselves are paid.

Book: claims.md
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.stats import spearmanr

from densereward import checked
from densereward.reward import dense, rewards
from densereward.seeding import rng
from densereward.text import sampling
from densereward.text.models import TokenScorer, load_causal_lm, to_device
from densereward.text.tokens import tokenize_prompt, tokenize_response
from study import cache, command_line
from study.identity import of_testbed
from study.measures.tax_records import Trained, trained
from study.methods import METHODS, Method
from study.profiles import profile as profile_row
from study.records import ROOT, provenance, write_record
from study.run import Run
from testbed import build, oracle, truth
from testbed import world as w

RECORDS = ROOT / "data" / "results" / "ledger.jsonl"
SCORED = ("segment", "tlcr")  # rows whose scorers are asked too
ROWS = ("sft", "bandit", "appo", "online-dpo", "adpo", "rs", "ars", *SCORED)
DIALOGUES = 500  # a seed


def batches(model, tokenizer, dialogues: list[dict], size: int = 100) -> Iterator[dict]:
    """Batches (`sampling.batch_of`, with log-probabilities and entropies of `model`) of dialogues."""
    prompts = [tokenize_prompt(tokenizer, row["prompt"]) for row in dialogues]
    answers = [tokenize_response(tokenizer, row["completion"][0]["content"]) for row in dialogues]
    for start in range(0, len(dialogues), size):
        part = slice(start, start + size)
        yield sampling.batch_of(model, tokenizer, prompts[part], answers[part])


@torch.no_grad()
def likelihood(policy, tokenizer, dialogues: list[dict]) -> float:
    """Mean log-probability of a token of the answers, EOS included, in nats."""
    total = count = 0.0
    for batch in batches(policy, tokenizer, dialogues):
        mask = batch["completion_mask"]
        total += float((batch["ref_logps"] * mask).sum(dtype=torch.float64))
        count += float(mask.sum())
    return total / count


@torch.no_grad()
def lowest_by_length(row: Method, scorer, normaliser: rewards.Normaliser, model, tokenizer, dialogues) -> float:
    """Spearman's correlation, over answers, of length (tokens) and the lowest reward of a segment; `model` is the SFT
    model, whose entropies cut."""
    found = []
    for batch in batches(model, tokenizer, dialogues):
        ids = dense.segment_ids(row.segmentation, batch, tokenizer)
        scores, mask = dense.segment_scores(row, scorer, batch, ids, None, tokenizer)
        paid = rewards.normalise(scores, mask, normaliser).masked_fill(~mask, torch.inf)
        found.append(torch.stack([batch["completion_mask"].sum(1).float(), paid.min(1).values.float()], dim=1).cpu())
    return float(spearmanr(*torch.cat(found).T.numpy()).statistic)


def misspelt(dialogues: list[dict], draw: np.random.Generator) -> list[tuple[list[dict], str]]:
    """(prompt, answer) twice for each dialogue with a correct item: as it is, and with one of them misspelt."""
    pairs = []
    for row in dialogues:
        prompt, text = row["prompt"], row["completion"][0]["content"]
        spans = [s for s in oracle.parse(prompt[0]["content"], text) if s.kind == "correct" and not s.misspelt]
        if spans:
            span = spans[int(draw.integers(len(spans)))]
            # private: a change of that file's bytes would rebuild every stage
            wrong = text[span.start : span.end].replace(span.item, w._misspell(span.item, draw), 1)
            pairs += [(prompt, text), (prompt, text[: span.start] + wrong + text[span.end :])]
    return pairs


def scorers(root: Path) -> dict[str, Path]:
    """Folders of scorers below a run's root, by what manifests of stages that were built on them call their content."""
    paths = [path for name in ("scorer", "discriminator") for path in root.glob(f"stages/{name}-*/{cache.MANIFEST}")]
    return {cache.digest(cache.Artifact(path.parent, cache.load_json(path))): path.parent for path in paths}


def measured(found: Trained, scorer: Path | None, sft: Path, dialogues: list[dict]) -> dict[str, float]:
    """`likelihood` of a policy and, with the `scorer` that paid it, of what that is like: `lowest_by_length`, and how
    often its score of an answer drops where an item is misspelt. Random: which item, which letter (seed)."""
    policy, tokenizer = load_causal_lm(found.folder)
    told = {"sft_logp": likelihood(to_device(policy).eval(), tokenizer, dialogues)}
    if scorer is None:
        return told
    row, model = METHODS[found.method], to_device(load_causal_lm(sft)[0]).eval()
    net = to_device(TokenScorer.from_pretrained(scorer, dtype=torch.float32)).eval()
    normaliser = rewards.Normaliser(**cache.load_json(found.folder.parent / "normaliser.json"))
    told["lowest_by_length"] = lowest_by_length(row, net, normaliser, model, tokenizer, dialogues)
    pairs = misspelt(dialogues, rng(found.seed, "misspelt"))
    scores = truth.response_scores(net, row, model, tokenizer, pairs, found.seed)
    return told | {"misspelt_test": float((scores[::2] > scores[1::2]).mean())}


def main(
    profile: Annotated[str, typer.Option(help="whose policies")] = "brief",
    seeds: Annotated[str, typer.Option(help="comma-separated seeds; each row is asked where it lies there")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
    runs: Annotated[Path, typer.Option(help="where stages keep their artifacts")] = ROOT / "runs",
) -> None:
    """Measure, and append a record per row and seed."""
    torch.set_num_threads(1)
    with command_line.asking():
        run, wanted = Run(profile_row(profile), root=runs), checked.seeds(seeds)
        policies = {(x.method, s): x for x in trained(run) for s in (wanted if x.seed is None else [x.seed])}
        if not any((name, seed) in policies for name in ROWS for seed in wanted):
            raise ValueError(f"{runs} holds no row of profile {profile} with seeds {seeds}; make study trains them")
    folders = scorers(run.root)
    for seed in wanted:
        dialogues = build.dialogues(run.profile.world, "test", DIALOGUES, rng(seed, "ledger"))
        for name in (x for x in ROWS if (x, seed) in policies):
            begun, found = time.perf_counter(), policies[name, seed]
            paid = (folders[x] for x in found.manifest["inputs"] if x in folders)  # the row's own is the first
            scorer = next(paid, None) if name in SCORED else None
            made = {"stage": found.manifest["hash"][:12], "commit": found.manifest["provenance"]["commit"]}
            record = {"kind": "ledger", "method": name, "profile": profile, "seed": seed, "policy": made}
            record |= {"params": of_testbed(run.profile, METHODS[name]), "dialogues": len(dialogues)}
            record |= {"measured": measured(found, scorer, policies["sft", seed].folder, dialogues)}
            write_record(out, record | {"provenance": provenance(seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
