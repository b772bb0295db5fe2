"""GRPO on a reward per segment: dense rewards without a critic.

Follows the process-supervised GRPO of Shao et al. 2024 (arXiv 2402.03300, Section 4.1.3): the rewards of all steps of
all responses to a prompt are normalised by their mean and deviation, and a token's advantage is the sum of the
normalised rewards of the steps that end at it or after it. A step is a segment, a token at the finest. With one step
per response it is TRL's GRPO. Groups, clipping and KL are TRL's (`group.py`).

The mean is over steps, not over responses: what is paid to an average step of the group counts as nothing, so a
response neither gains nor loses by its number of steps alone.

Left out: iterative training of the reward model.
"""

from collections.abc import Callable

import torch
from trl import GRPOTrainer

from densereward.training.counting import Referenced
from densereward.training.remax import to_go


def step_advantages(rewards: torch.Tensor, steps: torch.Tensor, generations: int) -> torch.Tensor:
    """Advantages [B, T] of rewards [B, T] that are paid at `steps`, bool [B, T]; each `generations` rows are a group.

    Zero after a row's last step. The deviation is that of n - 1, plus TRL's 1e-4. ValueError: a reward off the steps, a
    row without a step."""
    if (rewards.masked_fill(steps, 0) != 0).any():
        raise ValueError("a reward is paid off the ends of segments: GRPO on segments needs interpolation 'none'")
    if not steps.any(1).all():
        raise ValueError(f"row {int((~steps.any(1)).nonzero()[0])} has no segment, so there is no reward to normalise")

    def total(x: torch.Tensor) -> torch.Tensor:
        """Sum over each row's group, [B, 1], of x [B, T]."""
        return x.sum(1).view(-1, generations).sum(1).repeat_interleave(generations)[:, None]

    rewards, count = rewards.double(), total(steps.double())
    centred = (rewards - total(rewards) / count) * steps
    deviation = (total(centred**2) / (count - 1).clamp(min=1)).sqrt()
    return to_go(centred / (deviation + 1e-4)).float()


class DenseGRPOTrainer(Referenced, GRPOTrainer):
    """TRL's GRPO trainer with a reward per step.

    `reward_fn(batch) -> (rewards [B, T], steps, bool [B, T])` gets what `DensePPOTrainer`'s does. `reward_funcs` are
    metrics, never trained on."""

    _name = "Dense GRPO"

    def __init__(self, model, *, reward_fn: Callable, reward_funcs: list, args, **trl):
        super().__init__(model, reward_funcs=[proxy_reward, *reward_funcs], args=args, **trl)
        self.reward_fn = reward_fn

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        rewards, steps = self.reward_fn(self.with_reference(batch))
        here, width = batch["completion_ids"].shape
        self.noted["proxy_reward"] = self.accelerator.reduce(rewards.sum(1).mean(), reduction="mean").item()
        every = [self.accelerator.pad_across_processes(x, dim=1) for x in (rewards, steps.long())]
        rewards, steps = self.accelerator.gather(every[0]), self.accelerator.gather(every[1])  # groups span processes
        advantages = step_advantages(rewards, steps.bool(), self.num_generations)
        first = self.accelerator.process_index * here
        return batch | {"advantages": advantages[first : first + here, :width]}


def proxy_reward(completions, **unused) -> list[float]:
    """Stands in where TRL insists on a reward function; `curves` has under this name what `reward_fn` paid."""
    return [0.0] * len(completions)
