"""Preference pairs, tokenised, with the SFT model's entropies. Needs the SFT model. The training pairs are those of
`run.part`."""

from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from densereward.progress import progress
from densereward.text import logprobs, sampling, tokens
from densereward.text.models import load_causal_lm, to_device
from densereward.training.reward_model import SIDES
from study.cache import Artifact, save_json
from study.sources import DATA

SPLITS = ("preference", "validation", "test")
FIELDS = ("max_prompt_length", "max_completion_length", "pairs", "heldout_pairs")


def preferences(run) -> Artifact:
    """Tokenised pairs (SPLITS) with the SFT model's entropies of both responses: computed once here, so that every
    cut-off is a comparison (segment-ppo Section 2.2: a one-time preprocessing)."""
    p = run.profile

    def build_preferences(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft, run.dtype)
        model = to_device(model).eval()
        sizes = {run.part: p.pairs, "validation": p.heldout_pairs, "test": p.heldout_pairs}
        parts, report = run.read(**sizes)
        reports = {"read": asdict(report)}
        run.refuse_long_prompts(tokenizer)
        for name, rows in zip(SPLITS, (parts[name] for name in sizes), strict=True):
            rows, report = tokens.tokenize_pairs(rows, tokenizer, p.max_prompt_length, p.max_completion_length)
            reports[name] = asdict(report)
            with_entropies(model, tokenizer, rows).save_to_disk(folder / name)
        save_json(folder / "report.json", reports)

    key = run.key(*FIELDS, **({"part": run.part} if run.part != SPLITS[0] else {}))
    return run.stage("preferences", build_preferences, key, [*DATA, logprobs, sampling], [run.sft])


def with_entropies(model, tokenizer, pairs: Dataset, batch_size: int = 32) -> Dataset:
    """Pairs plus `chosen_entropies`, `rejected_entropies`: nats, one per completion token, in float32."""
    columns = pairs[:]  # lists at once: rows of a Dataset cost more than the model's pass
    prompts, n = columns["prompt_ids"] * 2, len(pairs)
    completions = [ids for side in SIDES for ids in columns[f"{side}_completion_ids"]]
    order = sorted(range(2 * n), key=lambda i: (len(completions[i]), len(prompts[i])))  # hardly any padding
    entropies: list = [None] * (2 * n)
    for start in progress("entropies, batches", range(0, len(order), batch_size)):
        rows = order[start : start + batch_size]
        batch = sampling.batch_of(model, tokenizer, [prompts[i] for i in rows], [completions[i] for i in rows])
        for i, row in zip(rows, batch["ref_entropies"].cpu().numpy(), strict=True):
            entropies[i] = row[: len(completions[i])]
    sides = {"chosen_entropies": entropies[:n], "rejected_entropies": entropies[n:]}
    return concatenate_datasets([pairs, Dataset.from_dict(sides)], axis=1)
