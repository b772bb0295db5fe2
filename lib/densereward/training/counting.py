"""What TRL's trainers that sample are watched by: a row per rollout batch, with all that was sampled.

A mixin that changes nothing of what is learnt: it reads numbers off the passes that the trainer makes anyway. Only
which responses share a micro-batch differs, as in `ppo.py`: like lengths, and padding is not computed.

Book: tlcr.md
"""

import time

import torch
from transformers import TrainerCallback

from densereward.text.sampling import Decoding
from densereward.text.tokens import joined
from densereward.training.padding import by_length, forward_by_length


class CloseRow(TrainerCallback):
    """Completes the row of `trainer.curves` after each update of its rollout batch."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.curves[-1]["seconds_update"] = time.perf_counter() - self.trainer.scored_at


class ReportCurves(TrainerCallback):
    """Gives trackers (`report_to`) each row of `trainer.curves`, complete: the next one is open, or training ends."""

    def __init__(self, trainer):
        self.trainer, self.told = trainer, 0

    def on_step_end(self, args, state, control, **kwargs):
        self._tell(args, state, control, len(self.trainer.curves) - 1)

    def on_train_end(self, args, state, control, **kwargs):
        self._tell(args, state, control, len(self.trainer.curves))

    def _tell(self, args, state, control, complete: int):
        for row in self.trainer.curves[self.told : complete]:
            numbers = {f"curves/{name}": x for name, x in row.items() if isinstance(x, int | float)}
            # not the handler's on_log, which would take the step's own log, still to come, for done
            self.trainer.callback_handler.call_event("on_log", args, state, control, logs=numbers)
        self.told = max(self.told, complete)


class Counted(Decoding):
    """Mixin before TRL's RLOOTrainer or GRPOTrainer.

    `curves` has one row per rollout batch, with the names of `DensePPOTrainer.curves`: every reward function's mean
    under its name, KL to the reference (nats, summed over tokens; nan where TRL loads none, beta = 0), length, share of
    truncated responses, entropy per token, seconds to generate, to score (metrics included) and to update. And what was
    sampled for it, whatever for: `responses` and `tokens`."""

    def __init__(self, *args, **trl):
        super().__init__(*args, **trl)
        self.add_callback(CloseRow(self))
        self.add_callback(ReportCurves(self))

    @property
    def curves(self) -> list[dict]:
        return [row for row in self.state.log_history if "rollout" in row]

    def sampled(self, completion_ids: list[list[int]], seconds: float) -> None:
        """Adds responses to what was sampled for this rollout batch."""
        count = torch.tensor([len(completion_ids), sum(map(len, completion_ids))], device=self.accelerator.device)
        responses, tokens = self.accelerator.reduce(count, reduction="sum").tolist()
        for name, x in {"responses": responses, "tokens": tokens, "seconds_generate": seconds}.items():
            self.noted[name] = self.noted.get(name, 0) + x

    def _generate(self, prompts):
        started = time.perf_counter()
        found = super()._generate(prompts)
        self.sampled(found[1], time.perf_counter() - started)
        return found

    def _get_per_token_logps_and_entropies(self, model, ids, mask, length, *rest, **settings):
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(model, ids, mask, length, *rest, **settings)
        policy = model is self.model
        settings["compute_entropy"] = policy
        found = super()._get_per_token_logps_and_entropies(model, ids, mask, length, *rest, **settings)
        self.sums["policy" if policy else "reference"] = (found[0] * mask[:, -length:]).sum()
        if policy:
            self.sums |= {"entropy": (found[1] * mask[:, -length:]).sum(), "tokens": mask[:, -length:].sum()}
        return found

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if "policy" not in self.sums:  # TRL leaves this pass out where a rollout batch makes a single update
            batch["old_per_token_logps"] = self.logps(self.model, batch)
        return batch

    @torch.no_grad()
    def logps(self, model, batch: dict) -> torch.Tensor:
        """Log-probabilities of a batch's completion tokens, [B, T], without gradient."""
        width, size = batch["completion_ids"].size(1), self.args.per_device_train_batch_size
        return self._get_per_token_logps_and_entropies(model, *joined(batch), width, size)[0]

    def _prepare_inputs(self, generation_batch):
        before, started = self._buffered_inputs, time.perf_counter()
        self.noted, self.sums = {}, {}
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training or self._buffered_inputs is before:
            return inputs
        self.scored_at = time.perf_counter()
        self._open_row(self.scored_at - started)
        even = getattr(self, "loss_type", None) != "dapo"  # RLOO's loss is a mean over a micro-batch's rows
        self._buffered_inputs = by_length(self._buffered_inputs, self.args.gradient_accumulation_steps, even)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _open_row(self, seconds: float) -> None:
        logged = self._metrics["train"]
        row = {name: logged[f"rewards/{name}/mean"][-1] for name in self.reward_func_names}
        row["length"] = logged["completions/mean_length"][-1]
        row["truncated"] = logged["completions/clipped_ratio"][-1]
        nothing = torch.tensor(float("nan"), device=self.accelerator.device)
        sums = [self.sums["policy"] - self.sums.get("reference", nothing), self.sums["entropy"], self.sums["tokens"]]
        kl, entropy, tokens = self.accelerator.reduce(torch.stack(sums), reduction="sum").tolist()
        row |= {"kl": kl * row["length"] / tokens, "entropy": entropy / tokens}
        row |= self.noted | {"seconds_score": seconds - self.noted["seconds_generate"]}
        self.state.log_history.append({"rollout": len(self.curves), "step": self.state.global_step, **row})


class Referenced(Counted):
    """`Counted` for a trainer whose segments are cut by the entropies of the reference. ValueError where `beta` is 0:
    TRL loads no reference then."""

    def __init__(self, *args, **trl):
        super().__init__(*args, **trl)
        if self.ref_model is None:
            raise ValueError("the KL coefficient is 0, so TRL loads no reference: set kl_coef above 0")

    @torch.no_grad()
    def with_reference(self, batch: dict) -> dict:
        """A rollout batch as reward functions take it: with the reference's ref_logps and ref_entropies, [B, T]."""
        width, size = batch["completion_ids"].size(1), self.args.per_device_train_batch_size
        fields = forward_by_length(self.ref_model, *joined(batch), width, size)
        return batch | {"ref_logps": fields["log_probs"], "ref_entropies": fields["entropy"]}
