"""DPO and rejection sampling in rounds, masked or not, by TRL's trainers: adaptive-mask's ADPO, ARS and their twins.

One training run whose batches are made as it goes on: each round is sampled from the policy as it then is
(`rounds.Rounds`), cut into minibatches, and seen for so many epochs, in an order drawn anew. The optimiser and its
moments live through all rounds. A round of fewer pairs than minibatches makes fewer updates, which `curves` count.

- Online DPO is TRL's DPO loss on best and worst; ADPO (Eq. 15) has the mask inside both sums (`masked.py`).
- Rejection sampling is TRL's likelihood of the best plus `kl_coef` times KL(policy || reference) of Eq. 7 and 16: exact
  over the vocabulary, at every token of the best, kept or not. (Eq. 16 has no coefficient.) Both are sums divided by
  all tokens of the best answers, kept or not, as Appendix D sums over kept tokens, and as PPO's masked loss is divided:
  a token that is kept weighs, against its KL, what it weighs without a mask. Divided by kept tokens, a mask of half of
  them would double that. Its answers are the best ones, not the policy's own, and so are the prefixes of that KL.

Left out: several processes, which are refused; updates of several micro-batches.

Book: adaptive_masks.md
"""

import time

import torch
from datasets import Dataset
from trl import DPOConfig, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from densereward.seeding import generator
from densereward.text.tokens import pad_batch
from densereward.training.counting import ReportCurves
from densereward.training.masked import MaskedCollator
from densereward.training.preference import TokenisedDPOTrainer
from densereward.training.rounds import Rounds
from densereward.training.settings import processes


class InRounds:
    """Mixin before a trainer of TRL's, which then needs no dataset but the prompts. `curves` has a row per round:
    that of `Rounds`, the mean `loss`, `updates` and `seconds_update`."""

    def __init__(self, *args, rounds: Rounds, minibatches: int, epochs: int, **trl):
        self.rounds, self.minibatches, self.epochs = rounds, minibatches, epochs
        self.curves, self.losses = [], []
        super().__init__(*args, **trl)
        self.add_callback(ReportCurves(self))

    def _prepare_dataset(self, dataset, *unused, **settings):
        return dataset

    def get_train_dataloader(self):
        """A generator, asked for a batch right before its update: nothing is sampled ahead."""
        draw = generator(self.args.seed, "minibatches")
        for number in range(self.args.max_steps // (self.minibatches * self.epochs)):
            rows, found = self.rounds(self.model)
            self.curves.append({"rollout": number, "step": self.state.global_step, **found})
            self.learning_since = time.perf_counter()
            parts = min(self.minibatches, len(rows))
            for order in (torch.randperm(len(rows), generator=draw) for _ in range(self.epochs if parts else 0)):
                for part in order.tensor_split(parts):
                    yield self.data_collator([rows[i] for i in part.tolist()])
            self._close_row()

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss

    def _close_row(self) -> None:
        loss = torch.stack(self.losses).mean().item() if self.losses else None
        seconds = time.perf_counter() - self.learning_since
        self.curves[-1] |= {"loss": loss, "updates": len(self.losses), "seconds_update": seconds}
        self.losses = []

    def train(self, *args, **kwargs):
        found = super().train(*args, **kwargs)
        if "updates" not in self.curves[-1]:  # after the last update nobody asks for a batch
            self._close_row()
        return found


class OnlineDPOTrainer(InRounds, TokenisedDPOTrainer):
    """TRL's DPO loss on what `Rounds` makes; masked where its rows are."""


class RejectionTrainer(InRounds, SFTTrainer):
    """TRL's likelihood of the chosen side of what `Rounds` makes, plus `kl_coef` times KL(policy || `reference`)."""

    def __init__(self, *args, reference, kl_coef: float, **rest):
        super().__init__(*args, **rest)
        self.reference, self.kl_coef = reference.eval(), kl_coef

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        answer = inputs.pop("completion_mask")[:, 1:].bool()  # token t is predicted at t - 1
        loss = super().compute_loss(model, dict(inputs), return_outputs, answer.sum())  # not of labels, which are kept
        if not self.kl_coef:
            return loss
        read = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        ours = model(**read).logits[:, :-1][answer].float().log_softmax(-1)  # [N, V]
        with torch.no_grad():
            theirs = self.reference(**read).logits[:, :-1][answer].float().log_softmax(-1)
        return loss + self.kl_coef * (ours.exp() * (ours - theirs)).sum(-1).mean()


class ChosenCollator:
    """Rows of `Rounds` as a batch of input_ids, attention_mask, labels (-100 on prompts and masked tokens) and
    completion_mask (the whole answer), [B, L]."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids, attention = pad_batch([row["prompt_ids"] + row["chosen_ids"] for row in rows], self.pad_id)
        starts = [[0] * len(row["prompt_ids"]) for row in rows]
        whole = [s + [1] * len(row["chosen_ids"]) for s, row in zip(starts, rows)]
        kept = [s + row.get("chosen_mask", [1] * len(row["chosen_ids"])) for s, row in zip(starts, rows)]
        whole, kept = pad_batch(whole, 0)[0], pad_batch(kept, 0)[0]
        labels = ids.masked_fill(kept == 0, -100)
        return {"input_ids": ids, "attention_mask": attention, "labels": labels, "completion_mask": whole}


def trainer_of(
    kind: str,
    policy,
    reference,
    tokenizer,
    rounds: Rounds,
    settings: dict,
    beta: float,
    masked: bool,
    prompts: Dataset,
    **loop,
) -> InRounds:
    """The trainer of `kind`, "online-dpo" (`beta` is DPO's) or "rs" (`beta` is the KL coefficient). `settings` are
    fields of TRL's configs, `loop` minibatches and epochs; `prompts` stand in where TRL insists on a dataset.
    ValueError on several processes, each of which would learn from answers of its own."""
    if (n := processes()) > 1:
        raise ValueError(f"{kind} makes its rounds on one process, and this is one of {n}: start it without a launcher")
    given = {"processing_class": tokenizer, "train_dataset": prompts, "rounds": rounds, **loop}
    settings = {"lr_scheduler_type": "constant"} | settings
    shared = {"max_length": None, "remove_unused_columns": False}
    if kind == "online-dpo":
        collator = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
        args = DPOConfig(**settings, **shared, beta=beta)
        given |= {"data_collator": MaskedCollator(collator) if masked else collator, "ref_model": reference}
        return OnlineDPOTrainer(model=policy, args=args, **given)
    args = SFTConfig(**settings, **shared)
    given |= {"data_collator": ChosenCollator(tokenizer.pad_token_id), "reference": reference, "kl_coef": beta}
    return RejectionTrainer(model=policy, args=args, **given)
