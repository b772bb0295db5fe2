"""KTO: each answer of a pair on its own, wanted or unwanted, by TRL's own trainer; masked where rows have masks.

adaptive-mask names KTO (Ethayarajh et al. 2024, arXiv 2402.01306) as a further user of its mask. Chosen answers are
desirable, rejected ones are not, so weights are equal. The reference point is TRL's estimate, on whole completions of
other prompts.

Left out: everything that TRL's KTOTrainer offers beyond its default loss.

Book: adaptive_masks.md
"""

from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from densereward.seeding import rng, seed_everything
from densereward.training import masked
from densereward.training.reward_model import SIDES
from densereward.training.settings import common, one_epoch, save, watched

MASK = "mask"


class TokenisedKTOTrainer(KTOTrainer):
    """TRL's trainer on rows of prompt_ids, completion_ids, label as they are. Each row's mismatched completion, which
    the reference point takes, is that of the row before."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        ids = dataset["completion_ids"][:]
        return dataset.add_column("KL_completion_ids", ids[-1:] + ids[:-1])


def unpaired(pairs: Dataset, size: int, seed: int) -> Dataset:
    """Rows of prompt_ids, completion_ids, label (and mask, where pairs have `masked.COLUMNS`), in random order of the
    pairs (seed): about `size` chosen answers, then the rejected ones of the same pairs, and so on. TRL reads them in
    this order. Where blocks hold two pairs or more, and no two pairs share a prompt, no row stands after another answer
    to its own prompt."""
    sides = []
    for side, column in zip(SIDES, masked.COLUMNS):
        names = {"prompt_ids": "prompt_ids", f"{side}_completion_ids": "completion_ids"}
        names |= {column: MASK} if column in pairs.column_names else {}
        rows = pairs.select_columns(list(names)).rename_columns(names)
        sides.append(rows.add_column("label", [side == "chosen"] * len(rows)))
    blocks = np.array_split(rng(seed, "kto").permutation(len(pairs)), max(1, len(pairs) // size))
    return concatenate_datasets(sides).select(np.concatenate([[*block, *(block + len(pairs))] for block in blocks]))


def train_kto(
    model,
    reference,
    tokenizer,
    pairs: Dataset,
    folder: Path,
    seed: int,
    batch: int,
    learning_rate: float,
    beta: float,
    **further,
) -> list[dict]:
    """Train `model` in place for one epoch on both answers of rows of `tokens.tokenize_pairs`, and save it; return its
    curve of loss and mean reward of chosen and of rejected answers. An update sees the answers of `batch` pairs, as
    many as DPO's. `further` fields of TRL's config replace ours.

    Rows with the columns of `masked.mask_pairs` are masked. Random: the order of the answers, by `seed`."""
    seed_everything(seed)
    rows = unpaired(pairs, batch, seed)
    args = KTOConfig(
        **common(folder, model, seed) | one_epoch(len(rows), 2 * batch, learning_rate, **further),
        beta=beta,
        max_length=None,
        remove_unused_columns=False,
    )
    collator = DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id)
    trainer = TokenisedKTOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        data_collator=masked.MaskedCollator(collator, (MASK,)) if MASK in rows.column_names else collator,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    watched(trainer, "KTO").train()
    save(trainer, folder)
    return [
        {"pairs": row["step"] * batch, "loss": float(row["loss"])}
        | {name: row.get(f"rewards/{name}") for name in SIDES}
        for row in trainer.state.log_history
        if "loss" in row
    ]
