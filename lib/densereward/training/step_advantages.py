"""GRPO and RLOO on a reward per segment: dense rewards without a critic.

Follows the process-supervised GRPO of Shao et al. 2024 (arXiv 2402.03300, Section 4.1.3): the rewards of all steps of
all responses to a prompt are normalised by their mean and deviation, and a token's advantage is the sum of the
normalised rewards of the steps that end at it or after it. A step is a segment, a token at the finest. With one step
per response it is TRL's GRPO. Groups, clipping and KL are TRL's (`group.py`).

The mean is over steps, not over responses: what is paid to an average step of the group counts as nothing, so a
response neither gains nor loses by its number of steps alone.

RLOO on steps is made alike, and is this study's: a step counts by how much it is paid above the mean step of the other
responses, undivided, after the KL of its tokens was taken off its reward. With one step per response its advantages are
TRL's RLOO's; the loss is GRPO's, with a ratio per token, where TRL's RLOO has one per response.

Left out: iterative training of the reward model.

Book: library.md
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
    rewards, count = _checked(rewards, steps).double(), _total(steps.double(), generations)
    centred = (rewards - _total(rewards, generations) / count) * steps
    deviation = (_total(centred**2, generations) / (count - 1).clamp(min=1)).sqrt()
    return to_go(centred / (deviation + 1e-4)).float()


def leave_one_out(rewards: torch.Tensor, steps: torch.Tensor, generations: int) -> torch.Tensor:
    """As `step_advantages`, but less the mean step of the group's other responses, and undivided."""
    rewards, own = _checked(rewards, steps).double(), steps.double()
    paid, count = (_total(x, generations) - x.sum(1, keepdim=True) for x in (rewards, own))  # the others', [B, 1]
    return to_go((rewards - paid / count) * steps).float()


def charged(rewards: torch.Tensor, kl: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Rewards [B, T] at `steps`, bool [B, T], less the sum of kl [B, T] over the tokens of each step."""
    step = steps.long().cumsum(1) - steps.long()  # [B, T]: a step's end is its last token
    sums = torch.zeros_like(kl).scatter_add(1, step.clamp(max=kl.size(1) - 1), kl)  # [B, T], one per step
    return rewards - sums.gather(1, step.clamp(max=kl.size(1) - 1)) * steps


def _checked(rewards: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    if (rewards.masked_fill(steps, 0) != 0).any():
        raise ValueError("a reward is paid off the ends of segments: steps need interpolation 'none'")
    if not steps.any(1).all():
        raise ValueError(f"row {int((~steps.any(1)).nonzero()[0])} has no segment, so there is no reward to compare")
    return rewards


def _total(x: torch.Tensor, generations: int) -> torch.Tensor:
    """Sum over each row's group, [B, 1], of x [B, T]."""
    return x.sum(1).view(-1, generations).sum(1).repeat_interleave(generations)[:, None]


class DenseGRPOTrainer(Referenced, GRPOTrainer):
    """TRL's GRPO trainer with a reward per step.

    `reward_fn(batch) -> (rewards [B, T], steps, bool [B, T])` gets what `DensePPOTrainer`'s does. `reward_funcs` are
    metrics, never trained on."""

    _name = "Dense GRPO"
    compare = staticmethod(step_advantages)

    def __init__(self, model, *, reward_fn: Callable, reward_funcs: list, args, **trl):
        super().__init__(model, reward_funcs=[proxy_reward, *reward_funcs], args=args, **trl)
        self.reward_fn = reward_fn

    def _rewards(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(what is compared in groups [B, T], the steps, bool [B, T]) of a batch with the reference's fields."""
        rewards, steps = self.reward_fn(batch)
        self.noted["proxy_reward"] = self.accelerator.reduce(rewards.sum(1).mean(), reduction="mean").item()
        return rewards, steps

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        rewards, steps = self._rewards(self.with_reference(batch))
        here, width = batch["completion_ids"].shape
        every = [self.accelerator.pad_across_processes(x, dim=1) for x in (rewards, steps.long())]
        rewards, steps = self.accelerator.gather(every[0]), self.accelerator.gather(every[1])  # groups span processes
        advantages = self.compare(rewards, steps.bool(), self.num_generations)
        first = self.accelerator.process_index * here
        return batch | {"advantages": advantages[first : first + here, :width]}


class DenseRLOOTrainer(DenseGRPOTrainer):
    """`leave_one_out` in place of GRPO's normalisation, and the KL coefficient in the reward, not in the loss."""

    _name = "Dense RLOO"
    compare = staticmethod(leave_one_out)

    def __init__(self, model, **rest):
        super().__init__(model, **rest)
        self.kl_coef, self.beta = self.beta, 0.0  # as in `remax.py`

    def _rewards(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        rewards, steps = super()._rewards(batch)
        theirs = batch["ref_logps"] * batch["completion_mask"]
        self.sums["reference"] = theirs.sum()  # for `curves`: TRL makes no pass of its own without a beta
        kl = batch["old_per_token_logps"] * batch["completion_mask"] - theirs
        return charged(rewards, self.kl_coef * kl, steps), steps


def proxy_reward(completions, **unused) -> list[float]:
    """Stands in where TRL insists on a reward function; `curves` has under this name what `reward_fn` paid."""
    return [0.0] * len(completions)
