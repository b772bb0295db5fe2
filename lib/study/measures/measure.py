"""What a record says of a trained policy: samples on test prompts, and the credit of the rewards that trained it."""

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from densereward.progress import progress
from densereward.reward import dense
from densereward.seeding import derive, generator
from densereward.text import sampling, tokens
from densereward.text.models import load_causal_lm, to_device
from study.cache import load_json, save_json
from study.measures import credit, signals
from study.records import known
from study.run import Run
from study.sources import DATA, SCORING
from study.stages import reward, watched
from testbed import build, monte_carlo, oracle, truth, world


def evaluate(run: Run, split: str = "test") -> dict:
    """Samples one answer of the trained policy per evaluation prompt of the split: length (tokens), KL to the SFT model
    (nats per response, from the samples), the score of the held-out proxy where there is one, and on the testbed the
    oracle's means, over ordinary and held-out combinations together and apart, and what perfect answers would be worth
    (`perfect`). `answers` has length and true return of each, in the order of the prompts. Random: `run.seed`."""
    p = run.profile
    model, tokenizer = load_causal_lm(run.policy.path / "policy" if run.policy else run.sft)
    reference = to_device(load_causal_lm(run.sft)[0]).eval()
    if run.testbed:
        conversations = [build.messages(text) for text in world.few_prompts(p.world, split, p.eval_prompts)]
    else:
        conversations = [row["prompt"] for row in run.splits(**{split: p.eval_prompts})[split]]
    prompts = [tokens.tokenize_prompt(tokenizer, c)[-p.max_prompt_length :] for c in conversations]
    model = to_device(model).eval()
    answers = sampling.sample(model, tokenizer, prompts, p.max_completion_length, derive(run.seed, "evaluation"))
    kl, lengths = [], [len(a) for a in answers]
    for start in progress("KL, batches", range(0, len(prompts), 64)):
        part = slice(start, start + 64)
        ours, theirs = (sampling.batch_of(m, tokenizer, prompts[part], answers[part]) for m in (model, reference))
        kl += ((ours["ref_logps"] - theirs["ref_logps"]) * ours["completion_mask"]).sum(1).tolist()
    result = {
        "n": len(prompts),
        "length": float(np.mean(lengths)),
        "kl": float(np.mean(kl)),
        "kl_se": float(np.std(kl, ddof=1) / len(kl) ** 0.5),
    }
    samples = [
        {"prompt": c[-1]["content"], "response": truth.text_of(tokenizer, a)}
        for c, a in zip(conversations, answers, strict=True)
    ]
    if run.heldout:
        proxy = watched.heldout_proxy(run.heldout, tokenizer, p.max_prompt_length)
        scores = np.array(proxy(prompts=conversations, completion_ids=answers))
        result["heldout_proxy"] = float(scores.mean())
        result["heldout_proxy_se"] = float(scores.std(ddof=1) / len(scores) ** 0.5)
    if run.testbed:
        rows = [oracle.summary(s["prompt"], s["response"]) for s in samples]
        held = np.array([monte_carlo.is_held_out(s["prompt"]) for s in samples])
        told = {key: [r[key] for r in rows if not np.isnan(r[key])] for key in rows[0]}
        result |= {key: float(np.mean(values)) if values else float("nan") for key, values in told.items()}
        returns = np.array([r[f"return_{p.world.returns}"] for r in rows])
        result["true_return"], result["true_return_se"] = (
            float(returns.mean()),
            float(returns.std(ddof=1) / len(returns) ** 0.5),
        )
        result["perfect"] = float(np.mean([oracle.perfect(s["prompt"], p.world.returns) for s in samples]))
        for name, chosen in (("ordinary", ~held), ("held_out", held)):
            if chosen.any():
                result[f"true_return_{name}"] = float(returns[chosen].mean())
    answers = {"length": lengths} | ({"true_return": returns.round(4).tolist()} if run.testbed else {})
    return {**known(result), "answers": answers, "samples": samples[:8]}


def reference_credit(run: Run) -> dict:
    """Answers of the SFT model to validation prompts with spans, credits and Monte Carlo advantages; shared by all
    methods of a seed."""
    p = run.profile

    def build_truth(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft)
        model = to_device(model).eval()
        prompts = world.few_prompts(p.world, "validation", p.credit_responses)
        ids = [tokens.tokenize_prompt(tokenizer, build.messages(text)) for text in prompts]
        answers = sampling.sample(model, tokenizer, ids, p.max_completion_length, derive(run.seed, "credit"))
        found = monte_carlo.monte_carlo(
            model, tokenizer, prompts, answers, p.credit_samples, p.max_completion_length, run.seed, p.world.returns
        )
        tensors = {name: value.tolist() if torch.is_tensor(value) else value for name, value in found.items()}
        save_json(folder / "truth.json", {"prompts": prompts, "prompt_ids": ids, "completion_ids": answers, **tensors})

    fields = ("credit_responses", "credit_samples", "max_completion_length")
    made = run.stage("credit", build_truth, run.key(*fields), [*DATA, *SCORING, monte_carlo, truth], [run.sft])
    return load_json(made.path / "truth.json")


class Paid(NamedTuple):
    """Answers as a trainer sees them: `batch` of `sampling.batch_of` with `rewards` [B, T], the `reward_fn` that paid
    them, what its shaping alone makes of rewards [B, T] (`shape`), the SFT model (`reference`) and its tokenizer."""

    batch: dict
    reward_fn: Callable
    shape: Callable
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@torch.no_grad()
def paid(run: Run, found: dict) -> Paid:
    """The answers `found` (prompt_ids, completion_ids) under a run's row: exactly what its policy would have been
    given, with the normaliser that lies in its folder."""
    reference, tokenizer = load_causal_lm(run.sft)
    reference = to_device(reference).eval()
    plain, net = reward.saved(run, run.policy.path, tokenizer, "credit")
    reward_fn, moving = (reward.shaped(run, of, net, tokenizer) for of in (plain, itemgetter("paid")))
    batch = sampling.batch_of(reference, tokenizer, found["prompt_ids"], found["completion_ids"])

    def shape(given: torch.Tensor) -> torch.Tensor:
        return moving(batch | {"paid": given.to(batch["completion_ids"].device)}).cpu()

    return Paid(batch | {"rewards": reward_fn(batch)}, reward_fn, shape, reference, tokenizer)


@torch.no_grad()
def credit_of(run: Run) -> dict:
    """Credit fidelity of a run's rewards and of the advantages that its trainer makes of them (`signals.py`)."""
    found, row = reference_credit(run), run.method
    told = paid(run, found)
    advantages = signals.advantages(run, told, found)
    spans, credits, mc, deciding = (torch.tensor(found[k]) for k in ("span_ids", "credits", "advantages", "deciding"))
    result = credit.fidelity(told.batch["rewards"].cpu(), advantages.cpu(), spans, credits, mc, deciding)
    result["gradient_cosine"] = credit.gradient_cosine(
        told.reference, told.batch, advantages, spans.to(advantages.device), mc
    )
    cut = spans
    if row.segmentation["kind"] != "spans":
        draw = generator(run.seed, "segments", row.name)
        cut = dense.segment_ids(row.segmentation, told.batch, told.tokenizer, draw).cpu()
    result["causal_share"] = credit.causal_share(cut, deciding, credits, row.interpolation, told.shape)
    if row.scorer != "oracle":
        result |= truth.boundaries(row, told.batch, spans, told.tokenizer, run.seed)
    return {**result, "value_se": found["value_se"]}
