"""GTPO: GRPO whose outcome is laid on tokens by the policy's entropy there.

Follows Tan et al. 2025 (arXiv 2508.04349, Eq. 3 and 5): of a group's good answers those that are less sure at a
position are paid more there; of the others those that are surer are charged more. What is paid at a position, summed
over the answers that reach it, is what it would be without entropies.

There an answer is right or wrong. Here a learned score is above the group's mean or is not, as for masks
(`masks.preferred_by`). There, too, the tokens of right and of wrong answers are normalised apart, after which neither
side knows how it came out; here together, as in GRPO. Left out: DAPO's clip, sampling and length rules.

Book: ppo.md
"""

import torch
from trl import GRPOTrainer

from densereward.reward.masks import preferred_by
from densereward.training.counting import Counted

SHARE = 0.1  # what entropies add to an outcome of 1 or -1
FLOOR = 1e-6  # nats


def entropy_weighted(good, entropy, mask, generations: int, share: float = SHARE) -> torch.Tensor:
    """Rewards [B, T] of answers that are `good`, bool [B], or are not, by `entropy` (nats) and `mask`, [B, T]; each
    `generations` rows are a group: 1 + share times a weight for good ones, the negative of it for the others. At each
    position weights, of the answers of a side that reach it, average 1: entropies for the good, their inverses for the
    others."""
    entropy, mask, good = entropy.double().clamp(min=FLOOR), mask.double(), good[:, None]
    side = torch.stack([mask * good, mask * ~good])  # [2, B, T]
    weight = side * torch.stack([entropy, 1 / entropy])
    total, count = (x.unflatten(1, (-1, generations)).sum(2).repeat_interleave(generations, 1) for x in (weight, side))
    weight = weight * count / total.clamp(min=1e-30)  # [2, B, T]
    return ((side + share * weight) * weight.new_tensor([1.0, -1.0])[:, None, None]).sum(0).float()


def gtpo_advantages(good, entropy, mask, generations: int) -> torch.Tensor:
    """Advantages [B, T] of `entropy_weighted`'s arguments: its rewards, `standardised`."""
    return standardised(entropy_weighted(good, entropy, mask, generations), mask, generations)


def standardised(rewards: torch.Tensor, mask: torch.Tensor, generations: int) -> torch.Tensor:
    """Rewards [B, T] less the mean over the tokens of their group, by their deviation plus TRL's 1e-4; 0 off `mask`."""
    groups, real = (x.double().unflatten(0, (-1, generations)) for x in (rewards, mask))
    count = real.sum((1, 2), keepdim=True)
    centred = (groups - (groups * real).sum((1, 2), keepdim=True) / count) * real
    deviation = ((centred**2).sum((1, 2), keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (centred / (deviation + 1e-4)).flatten(0, 1).float()


class GTPOTrainer(Counted, GRPOTrainer):
    """TRL's GRPO with advantages [B, T] of `entropy_weighted`. A group whose answers all score alike teaches
    nothing."""

    _name = "GTPO"

    def _get_per_token_logps_and_entropies(self, model, *rest, **settings):
        found = super()._get_per_token_logps_and_entropies(model, *rest, **settings)
        if model is self.model and not torch.is_grad_enabled():
            self.entropies = found[1]  # of the policy that sampled, [B, T]
        return found

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mask, scored = batch["completion_mask"], batch["advantages"][:, None]  # [B, T], [B, 1]
        here, width = mask.shape
        every = [self.accelerator.pad_across_processes(x, dim=1) for x in (self.entropies, mask)]
        entropies, mask = (self.accelerator.gather(x) for x in every)  # groups span processes
        good = self.accelerator.gather(preferred_by("group", None, scored, batch["completion_mask"]))
        found = gtpo_advantages(good, entropies, mask, self.num_generations)
        first = self.accelerator.process_index * here
        return batch | {"advantages": found[first : first + here, :width] * (scored != 0)}
