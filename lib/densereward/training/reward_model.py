"""Reward models: a token scorer trained by Bradley-Terry on segment scores, with TRL's RewardTrainer (segment-ppo Eq.
1, 3, 4).

The scorer's forward returns the mean over segment ends as `logits`, so the trainer is TRL's as it stands; the collator
brings the segment ends along. Boundaries come from entropies that were computed once, and stand beside the pairs.

Book: reward_models.md
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from densereward.progress import progress
from densereward.reward import segments as S
from densereward.reward.dense import segment_ids
from densereward.reward.recipe import Recipe
from densereward.seeding import generator, seed_everything
from densereward.text.models import TokenScorer
from densereward.text.tokens import collate_prompt_completion, pad_batch
from densereward.training.settings import common, one_epoch, save, watched

SIDES = ("chosen", "rejected")


def with_segments(pairs: Dataset, method: Recipe, tokenizer, seed: int) -> Dataset:
    """Preference rows plus `chosen_segment_ids`, `rejected_segment_ids` (lists of T numbers) by the method's
    segmentation.

    `pairs` holds prompt_ids, and per side completion_ids, and entropies where the method cuts by them. Random: only a
    random segmentation, by `seed`. ValueError for entropies that are missing."""
    draw = generator(seed, "segments", method.name)
    names = [f"{side}_{what}" for side in SIDES for what in ("completion_ids", "entropies")]
    columns, size = pairs.select_columns([x for x in names if x in pairs.column_names])[:], 512  # plain lists, at once
    cut: dict[str, list] = {f"{side}_segment_ids": [] for side in SIDES}
    for start in progress("segments, batches", range(0, len(pairs), size)):
        for side in SIDES:
            ids, mask = pad_batch(columns[f"{side}_completion_ids"][start : start + size], tokenizer.pad_token_id)
            entropies = _padded(columns.get(f"{side}_entropies", [])[start : start + size])
            batch = {"completion_ids": ids, "completion_mask": mask} | entropies
            rows = segment_ids(method.segmentation, batch, tokenizer, draw).tolist()
            cut[f"{side}_segment_ids"] += [row[:n] for row, n in zip(rows, mask.sum(1).tolist(), strict=True)]
    return concatenate_datasets([pairs, Dataset.from_dict(cut)], axis=1)


def answers(rows: list[dict], side: str, tokenizer) -> dict[str, torch.Tensor]:
    """One side's answers of preference rows as trainers see rollouts: prompt_ids, prompt_mask [B, P], completion_ids,
    completion_mask [B, T], and ref_entropies [B, T] (nats) where the rows hold them."""
    batch, name = collate_prompt_completion(rows, tokenizer.pad_token_id, f"{side}_completion_ids"), f"{side}_entropies"
    return batch | _padded([row[name] for row in rows if name in row])


def _padded(entropies: list[list[float]]) -> dict[str, torch.Tensor]:
    """ref_entropies [B, T] of a batch in float32, padded with 0; without any, nothing."""
    rows = [torch.tensor(e, dtype=torch.float32) for e in entropies]
    return {"ref_entropies": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)} if rows else {}


def collate(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, segment_ends [2B, L]: the chosen half first, as RewardTrainer expects; padded on the
    right."""
    names = "prompt_ids", "{}_completion_ids", "{}_segment_ids"
    both = [[row[name.format(side)] for name in names] for side in SIDES for row in rows]
    input_ids, attention_mask = pad_batch([prompt + ids for prompt, ids, _ in both], pad_id)
    cut = pad_batch([[-1] * len(prompt) + segment for prompt, _, segment in both], -1)[0]
    ends = S.segment_ends(cut).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "segment_ends": ends}


class _Curve(TrainerCallback):
    """Held-out accuracy along the way: the curve that a scorer which fails the gate is reported with."""

    def __init__(self, scorer, heldout, pad_id, every, batch):
        self.scorer, self.heldout, self.pad_id, self.every, self.rows = scorer, heldout, pad_id, every, []
        self.batch = batch

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            accuracy = float(np.mean(margins(self.scorer, self.heldout, self.pad_id) > 0))
            self.rows.append({"pairs": state.global_step * self.batch, "accuracy": accuracy})
            self.scorer.train()


def train_reward_model(
    scorer: TokenScorer,
    tokenizer,
    train: Dataset,
    heldout: Dataset,
    folder: Path,
    seed: int,
    batch: int,
    learning_rate: float,
    **further,
) -> list[dict]:
    """Train `scorer` in place for one epoch on rows of `with_segments`, `batch` pairs an update; save it; return its
    curve of held-out label accuracy.

    Random: the order of the pairs (batches hold like lengths), by `seed`. One epoch, Adam betas (.9, .95), clipping at
    1 as in segment-ppo Table 8; warm-up and linear decay are ours. `further` fields of TRL's config replace these."""
    seed_everything(seed)
    args = RewardConfig(
        **common(folder, scorer, seed) | one_epoch(len(train), batch, learning_rate, **further),
        logging_strategy="no",
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",  # batches of like lengths: less padding
        max_length=None,
    )
    columns = ["prompt_ids", *(f"{side}_{what}" for side in SIDES for what in ("completion_ids", "segment_ids"))]
    rows = train.select_columns(columns)[:]
    unread = {name: [[0]] * len(train) for name in ("chosen_ids", "rejected_ids")}  # TRL looks for these names
    rows = Dataset.from_dict(rows | unread | {"length": lengths(train)})
    few = heldout.select(range(min(250, len(heldout))))
    curve = _Curve(scorer, few, tokenizer.pad_token_id, args.logging_steps, batch)
    trainer = RewardTrainer(
        model=scorer,
        args=args,
        train_dataset=rows,
        data_collator=lambda batch: collate(batch, tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[curve],
    )
    watched(trainer, "reward model").train()
    save(trainer, folder)
    return curve.rows


@torch.no_grad()
def margins(scorer: TokenScorer, rows: Dataset, pad_id: int, batch_size: int = 32) -> np.ndarray:
    """e(x, chosen) - e(x, rejected) of every row of `with_segments`, [N]."""
    scorer.eval()
    order, out = np.argsort(lengths(rows), kind="stable"), np.zeros(len(rows), dtype=np.float32)
    for take in progress("margins, batches", np.split(order, range(batch_size, len(order), batch_size))):
        batch = collate(rows.select(take).to_list(), pad_id)
        scores = scorer(**{name: tensor.to(scorer.device) for name, tensor in batch.items()}).logits[:, 0]
        chosen, rejected = scores.chunk(2)
        out[take] = (chosen - rejected).cpu().numpy()
    return out


def lengths(rows: Dataset) -> list[int]:
    """Tokens of a pair's prompt and its longer answer: as wide as a batch of it must be."""
    prompts, *sides = (map(len, rows[name]) for name in ("prompt_ids", *(f"{s}_completion_ids" for s in SIDES)))
    return [prompt + max(pair) for prompt, *pair in zip(prompts, *sides, strict=True)]


def resolve(method: Recipe, pairs: Dataset, tokenizer, like: Recipe) -> Recipe:
    """The method with numbers in place of what its segmentation says of the data, read off the first 512 of these pairs
    (a method without any is returned as it is): a random one's "matched" rate becomes that at which `like` cuts, a mean
    `length` in tokens becomes the entropy cut-off (nats) that gives it."""
    part, cut = pairs.select(range(min(512, len(pairs)))), dict(method.segmentation)
    if cut.get("rate") == "matched":
        rows = with_segments(part, like, tokenizer, 0)
        ids = pad_batch([[s + 1 for s in row] for side in SIDES for row in rows[f"{side}_segment_ids"]], 0)[0] - 1
        cut["rate"] = round(S.start_rate(ids), 4)
    elif "length" in cut:
        responses = [np.asarray(e, dtype=np.float32) for side in SIDES for e in part[f"{side}_entropies"]]
        later = np.concatenate([e[1:] for e in responses])  # the first token starts a segment anyway
        starts = sum(map(len, responses)) / cut.pop("length") - len(responses)
        share = min(max(starts / len(later), 0.0), 1.0)
        cut["cutoff"] = round(float(np.quantile(later, 1 - share)), 4)
    return replace(method, segmentation=cut)
