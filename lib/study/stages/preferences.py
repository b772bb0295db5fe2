"""Preference pairs, tokenised, and the SFT model's entropies of them where segments are cut by entropies. Needs the SFT
model. The training pairs are those of `run.part`."""

from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_from_disk

from densereward.progress import progress
from densereward.reward.segments import reads_entropies
from densereward.text import logprobs, sampling, tokens
from densereward.text.models import load_causal_lm, to_device
from densereward.training.reward_model import SIDES
from study.cache import Artifact, save_json
from study.sources import DATA

SPLITS = ("preference", "validation", "test")
FIELDS = ("max_prompt_length", "max_completion_length", "pairs", "heldout_pairs")


def preferences(run) -> Artifact:
    """Tokenised pairs, by split (SPLITS), and a report of what was dropped."""
    p = run.profile

    def build_preferences(folder: Path) -> None:
        _, tokenizer = load_causal_lm(run.sft)
        sizes = {run.part: p.pairs, "validation": p.heldout_pairs, "test": p.heldout_pairs}
        parts, report = run.read(**sizes)
        reports = {"read": asdict(report)}
        run.refuse_long_prompts(tokenizer)
        for name, rows in zip(SPLITS, (parts[name] for name in sizes), strict=True):
            rows, report = tokens.tokenize_pairs(rows, tokenizer, p.max_prompt_length, p.max_completion_length)
            reports[name] = asdict(report)
            rows.save_to_disk(folder / name)
        save_json(folder / "report.json", reports)

    key = run.key(*FIELDS, **({"part": run.part} if run.part != SPLITS[0] else {}))
    return run.stage("preferences", build_preferences, key, DATA, [run.sft])


def entropies(run, pairs: Artifact) -> Artifact:
    """Pairs (SPLITS) with the SFT model's entropies of both responses: computed once here, so that every cut-off is a
    comparison (segment-ppo Section 2.2: a one-time preprocessing)."""

    def build_entropies(folder: Path) -> None:
        model, tokenizer = load_causal_lm(run.sft, run.dtype)
        model = to_device(model).eval()
        for name in SPLITS:
            with_entropies(model, tokenizer, load_from_disk(pairs.path / name)).save_to_disk(folder / name)

    return run.stage("entropies", build_entropies, run.key(), [*DATA, logprobs, sampling], [run.sft, pairs])


def to_cut(run, pairs: Artifact, *cuts: dict) -> Artifact:
    """Pairs with what these segmentations cut by: their `entropies`, or nothing more."""
    # a random segmentation is matched to one of entropies (`reward_model.resolve`)
    read = any(reads_entropies(cut["kind"]) or cut.get("rate") == "matched" for cut in cuts)
    return entropies(run, pairs) if read else pairs


def as_used(run) -> Artifact:
    """The run's pairs with what the segments of its row, and of its mask, are cut by."""
    row, rows = run.row, [run.row, *([run.mask.row] if run.mask else [])]
    cuts = [cut for r in rows for cut in (r.segmentation, r.trained_on)]
    return to_cut(run, run.preferences, *cuts, *([row.mask["segments"]] if "segments" in (row.mask or {}) else []))


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
