"""PPO on dense rewards [B, T]: TRL's GRPO trainer with one rollout per prompt, a critic, KL in the reward, and GAE.

Follows segment-ppo Section 2.1 and Table 8: policy and value clipping, KL coefficient, two learning rates. TRL keeps
rollouts, engines, the clipped policy loss (over [B, T] advantages) and checkpoints.

- The reference model is the SFT model. One pass of it per rollout batch yields the log-probabilities of the KL term and
  the entropies from which segments are cut.
- The critic hangs below the policy as `policy.critic`, so that one engine (DDP, DeepSpeed ZeRO-2 or ZeRO-3) holds,
  synchronises and checkpoints both. It has its own learning rate and its own gradient clipping (DeepSpeed alone clips
  both as one). It is saved in the folder `critic` beside the policy, never inside it.
- Losses are sums over tokens divided by the rollout batch's mean number of tokens per update (TRL's "dapo"), so they do
  not depend on how a batch is split over micro-batches and processes. With loss_type "grpo" both losses are means over
  responses of means over tokens, as in segment-ppo's released code.
- Within an update, micro-batches hold responses of like length and are trimmed to their longest: losses stay the same,
  padding is not computed.
- A response cut off at the maximum length ends like any other: the value after its last token is 0.
- With TRL's `top_entropy_quantile` below 1 the policy learns from that share of a rollout batch's tokens alone, those
  of highest entropy (Wang et al. 2025, arXiv 2506.01939). TRL chooses within a micro-batch, by the policy as it learns;
  here it is the rollout batch and the policy that sampled it, so that micro-batches change nothing.

Left out: tools, images, adaptive KL coefficients, FSDP.

Book: ppo.md
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed
from trl.trainer.utils import disable_dropout_in_model

from densereward.text.logprobs import attach_critic, completion_forward, fused_head
from densereward.text.models import loaded
from densereward.text.sampling import Decoding
from densereward.text.tokens import joined
from densereward.training.counting import ReportCurves
from densereward.training.padding import by_length, forward_by_length


@dataclass
class DensePPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with PPO's fields; defaults are segment-ppo's where it gives any. Epochs: `num_iterations`.

    The rollout batch (per_device_train_batch_size * processes * steps_per_generation) must be even, as TRL checks."""

    learning_rate: float = 5e-7
    critic_learning_rate: float = 9e-6
    kl_coef: float = 0.01  # per nat of log(policy / SFT), subtracted from the reward of each token
    gamma: float = 1.0
    lam: float = 1.0  # lambda of GAE; no paper gives it
    value_clip: float = 0.2  # the paper: 0.2 for bandit, 0.25 for segment and token rewards
    vf_coef: float = 1.0
    critic_warmup_steps: int = 0  # the first rollout batches, whose policy loss has weight 0
    whiten_advantages: bool = True  # over the real tokens of the whole rollout batch, on all processes
    num_generations: int = 1
    adam_beta2: float = 0.95
    lr_scheduler_type: str = "constant"
    save_strategy: str = "no"

    def __post_init__(self):
        for name, value in {"num_generations": 1, "beta": 0.0, "temperature": 1.0}.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}: DensePPOTrainer needs {value!r}")
        if self.loss_type not in ("dapo", "grpo"):
            raise ValueError(f"loss_type is {self.loss_type!r}: DensePPOTrainer needs 'dapo' or 'grpo'")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"gamma is {self.gamma} and lam is {self.lam}: both lie in [0, 1]")
        self.num_generations = 2  # TRL refuses 1, though everything but that check works with it
        super().__post_init__()
        self.num_generations = 1
        passes, accumulated = self.steps_per_generation * self.num_iterations, self.gradient_accumulation_steps
        if passes % accumulated:
            raise ValueError(
                f"steps_per_generation * num_iterations is {passes}, no multiple of gradient_accumulation_steps = "
                f"{accumulated}: an update would mix two rollout batches"
            )
        self.updates_per_rollout = passes // accumulated
        if self.save_strategy == "steps" and self.save_steps % self.updates_per_rollout:
            raise ValueError(
                f"save_steps is {self.save_steps}: make it a multiple of {self.updates_per_rollout}, the updates per "
                "rollout batch, since a run resumes exactly only between two rollout batches"
            )


def _mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (x * mask).sum() / mask.sum().clamp(min=1)


def mean_over(accelerator, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `x` where `mask` is 1, over all processes."""
    total, count = accelerator.reduce(torch.stack([(x * mask).sum(), mask.sum()]), reduction="sum")
    return total / count.clamp(min=1)


def whiten(x: torch.Tensor, mask: torch.Tensor, mean: Callable = _mean) -> torch.Tensor:
    """x [B, T] with mean 0 and variance 1 over the tokens of `mask`, 0 elsewhere; `mean` (x, mask) may span
    processes."""
    x = x - mean(x, mask)
    return x * (mean(x**2, mask) + 1e-8).rsqrt() * mask


def gae(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float):
    """Generalised advantage estimation: (advantages, returns), both [B, T] and zero on padding.

    `rewards[:, t]` is paid for token t, `values[:, t]` predicts the rewards from token t on, `mask` is right-padded;
    the value after the last real token is 0. The recursion is one product with powers of gamma lam, [T, T]."""
    if not rewards.shape == values.shape == mask.shape:
        shapes = [list(x.shape) for x in (rewards, values, mask)]
        raise ValueError(f"rewards, values and mask have shapes {shapes}: they must all be [B, T]")
    padding = ~mask.bool()
    rewards, values = rewards.masked_fill(padding, 0), values.masked_fill(padding, 0)
    delta = rewards + gamma * torch.nn.functional.pad(values[:, 1:], (0, 1)) - values
    steps = torch.arange(rewards.size(1), device=rewards.device)
    ahead = steps[:, None] - steps  # [k, t]: how far token k lies ahead of token t
    decay = torch.full_like(delta[:1, :1], gamma * lam) ** ahead.clamp(min=0) * (ahead >= 0)
    advantages = (delta @ decay).masked_fill(padding, 0)
    return advantages, advantages + values


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error [B, T]: the larger of the plain one and that of values kept within `clip` of the old."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


class CloseRow(TrainerCallback):
    """Completes the row of `trainer.curves` after each update of its rollout batch, before a checkpoint is written."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        loss = torch.stack(self.trainer.value_losses).mean() * args.gradient_accumulation_steps
        loss = self.trainer.accelerator.reduce(loss, reduction="mean").item()
        self.trainer.curves[-1] |= {"value_loss": loss, "seconds_update": time.perf_counter() - self.trainer.scored_at}


def no_metric(completions, **unused) -> list[float]:
    """Stands in where TRL insists on a reward function: the rewards come from `reward_fn`."""
    return [0.0] * len(completions)


class DensePPOTrainer(Decoding, GRPOTrainer):
    """PPO with a reward per token.

    `reward_fn(batch) -> rewards [B, T]` gets a dict of `prompt_ids`, `prompt_mask` [B, P], `completion_ids`,
    `completion_mask`, `ref_logps` and `ref_entropies` [B, T] (nats). `ref_model` is the SFT model; it is frozen here.
    `critic` is a `models.TokenScorer` or alike. `metrics` are TRL reward functions, logged and put into `curves` under
    their names, never trained on. The other arguments are TRL's.

    `curves` has one row per rollout batch: means per response of proxy reward, KL (nats, summed over tokens) and
    length, share of truncated responses, entropy per token (nats), value loss, explained variance (of these returns, by
    the critic before it learns from them), whether the critic is `warm`, so that the policy learns too, seconds to
    generate (metrics included), to score and to update. It is a view of `state.log_history`, hence in every checkpoint.
    Raises ValueError on shared weights and on rewards of a wrong shape or not finite."""

    _name = "Dense PPO"

    def __init__(self, model, *, reward_fn, ref_model, critic, args: DensePPOConfig, metrics=None, **trl):
        owned = [{id(p) for p in part.parameters()} for part in (model, ref_model, critic)]
        if sum(map(len, owned)) != len(set.union(*owned)):
            raise ValueError("policy, ref_model and critic share parameters: pass copies, or one would train another")
        super().__init__(model, reward_funcs=list(metrics or [no_metric]), args=args, **trl)
        self.reward_fn, self.metric_names = reward_fn, self.reward_func_names if metrics else []
        self.top_entropy_quantile = 1.0  # TRL's own choice, within a micro-batch, is off
        attach_critic(self.model, critic.to(self.accelerator.device))
        disable_dropout_in_model(self.model)  # the ratio compares two passes over the same tokens
        fused_head(ref_model).requires_grad_(False)
        if self.is_deepspeed_enabled:
            self.ref_model = prepare_deepspeed(ref_model, self.accelerator)
        else:
            self.ref_model = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        self.ref_model.eval()
        self.add_callback(CloseRow(self))
        self.add_callback(ReportCurves(self))

    @property
    def curves(self) -> list[dict]:
        return [row for row in self.state.log_history if "rollout" in row]

    def train(self, resume_from_checkpoint=None, **further):
        """TRL's. ValueError for DeepSpeed's checkpoint of another number of processes, or without DeepSpeed."""
        found = resume_from_checkpoint
        found = get_last_checkpoint(self.args.output_dir) if found is True else found
        shares = len(list(Path(found).glob("global_step*/*zero_pp_rank_*_optim_states.pt"))) if found else 0
        if shares and (shares != self.accelerator.num_processes or not self.is_deepspeed_enabled):
            here = f"{self.accelerator.num_processes} with{'' if self.is_deepspeed_enabled else 'out'} DeepSpeed"
            raise ValueError(
                f"checkpoint {found} holds DeepSpeed's optimiser states in {shares} shares, a process each, and there "
                f"is {here}: go on with {shares} processes under DeepSpeed, or start anew from its weights"
            )
        return super().train(resume_from_checkpoint, **further)

    def _policy_parameters(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.model.named_parameters() if not name.startswith("critic.")]

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            make, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            critic = {"params": list(self.model.critic.parameters()), "lr": self.args.critic_learning_rate}
            groups = [{"params": self._policy_parameters()}, critic]
            self.optimizer = make(groups, weight_decay=self.args.weight_decay, **settings)
        return self.optimizer

    def _clip_grad_norm(self, model):
        if self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        norm = self.accelerator.clip_grad_norm_(self._policy_parameters(), self.args.max_grad_norm)
        torch.nn.utils.clip_grad_norm_(self.model.critic.parameters(), self.args.max_grad_norm)
        return norm

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        if self.shuffle_dataset:  # a run resumed in its second epoch must see the second epoch's order
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(self.args.seed + epoch)
        return sampler

    def _get_per_token_logps_and_entropies(self, model, ids, mask, length, batch_size=None, **unused):
        """TRL's, which keeps the critic's values of the same forward: `_values[:, t]` is that of the state before t."""
        with self.accelerator.autocast():
            forward = forward_by_length if batch_size else completion_forward
            fields = forward(model, ids, mask, length, *([batch_size] if batch_size else []))
        self._values, self._entropies = fields.get("token_values"), fields["entropy"].detach()
        return fields["log_probs"], fields["entropy"], None

    def _prepare_inputs(self, generation_batch):
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training or self._buffered_inputs is before:
            return inputs
        even = self.args.loss_type != "dapo"  # the others are means over the rows of a micro-batch
        self._buffered_inputs = by_length(self._buffered_inputs, self.args.gradient_accumulation_steps, even)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _mean(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_over(self.accelerator, x, mask)

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        started = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        generated = time.perf_counter()
        mask = batch["completion_mask"]
        passes = *joined(batch), mask.size(1), self.args.per_device_train_batch_size
        if "old_per_token_logps" not in batch:  # TRL leaves them out where a rollout batch makes a single update
            batch["old_per_token_logps"] = self._get_per_token_logps_and_entropies(self.model, *passes)[0]
        values, entropies, mask = self._values * mask, self._entropies, mask.to(self._values.dtype)
        ref_logps, ref_entropies, _ = self._get_per_token_logps_and_entropies(self.ref_model, *passes)
        scored = batch | {"ref_logps": ref_logps, "ref_entropies": ref_entropies}
        rewards = self.reward_fn(scored)
        self.scored = scored | {"rewards": rewards}
        if rewards.shape != mask.shape or not rewards.isfinite().all():
            raise ValueError(f"reward_fn returned {list(rewards.shape)}, it must return finite {list(mask.shape)}")
        kl = (batch["old_per_token_logps"] - ref_logps) * mask
        paid = rewards - self.args.kl_coef * kl
        advantages, returns = self._estimate(paid, values, mask, scored)
        if self.model.training:
            self.value_losses, self.scored_at = [], time.perf_counter()
            seconds = {"seconds_generate": generated - started, "seconds_score": self.scored_at - generated}
            self._open_row(rewards * mask, kl, entropies, values, returns, mask, seconds)
        if self.args.whiten_advantages:
            advantages = whiten(advantages, mask, self._mean)
        if (share := self.args.top_entropy_quantile) < 1:
            advantages = advantages * self.get_high_entropy_mask(entropies, mask, 1 - share)
        return batch | {"advantages": advantages, "returns": returns, "old_values": values}

    def _estimate(self, rewards, values, mask, scored: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(advantages, returns), both [B, T], of rewards with KL, values and mask [B, T]; `scored` is what rewards were
        made of."""
        return gae(rewards, values, mask, self.args.gamma, self.args.lam)

    def _open_row(self, rewards, kl, entropies, values, returns, mask, seconds):
        each = torch.ones_like(mask[:, 0])
        error, spread = (x - self._mean(x, mask) for x in (returns - values, returns))
        means = {
            "proxy_reward": self._mean(rewards.sum(1), each),
            "kl": self._mean(kl.sum(1), each),
            "length": self._mean(mask.sum(1), each),
            "entropy": self._mean(entropies, mask),
            "explained_variance": 1 - self._mean(error**2, mask) / self._mean(spread**2, mask).clamp(min=1e-8),
        }
        logged = self._metrics["train"]
        row = {name: mean.item() for name, mean in means.items()}
        row["truncated"] = logged["completions/clipped_ratio"][-1]
        row |= {name: logged[f"rewards/{name}/mean"][-1] for name in self.metric_names}
        for name, number in row.items():
            logged[f"ppo/{name}"].append(number)
        row["warm"] = self.warm = len(self.curves) >= self.args.critic_warmup_steps
        self.state.log_history.append({"rollout": len(self.curves), "step": self.state.global_step, **row, **seconds})

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        losses = value_loss(self._values, inputs["old_values"], inputs["returns"], self.args.value_clip) * mask
        tokens = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        accumulated = self.current_gradient_accumulation_steps if self.model.training else 1
        if self.args.loss_type == "grpo":
            value = (losses.sum(1) / mask.sum(1).clamp(min=1)).mean() / accumulated
        elif self.model.training:
            value = losses.sum() / (tokens * accumulated / self.args.steps_per_generation)
        else:
            value = losses.sum() / tokens
        if not self.model.training:
            return loss + self.args.vf_coef * value
        self.value_losses.append(value.detach())
        return loss * float(self.warm) + self.args.vf_coef * value

    def _save(self, output_dir=None, state_dict=None):
        output_dir = Path(output_dir or self.args.output_dir)
        critic = {k.removeprefix("critic."): v for k, v in (state_dict or {}).items() if k.startswith("critic.")}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.model.critic.save_pretrained(output_dir / "critic", state_dict=critic or None)

    def _load_from_checkpoint(self, checkpoint, model=None):
        for part, folder in (self.model, Path(checkpoint)), (self.model.critic, Path(checkpoint, "critic")):
            saved = loaded(type(part), folder, dtype=part.dtype).state_dict()
            part.load_state_dict(saved, strict=False)  # the policy's lacks the critic's keys, nothing else
