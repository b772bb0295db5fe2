"""Trainers without a critic: RLOO and GRPO by TRL's own, ReMax, Vine, GTPO, and the first two per segment
(`step_advantages.py`).

RLOO and GRPO take several responses to a prompt as each other's baseline. Their advantages, losses, clipping and
defaults are TRL's. The KL coefficient is the profile's and stands where TRL has it: RLOO subtracts it from the reward,
times the log-ratio summed over a response, before the baseline; GRPO divides rewards by their deviation within the
group, and adds the coefficient to the loss of each token, times the estimator exp(-x) + x - 1 of its log-ratio x.

As many responses as any method: with k per prompt, a k-th of the prompts. Without a critic to warm up, every update
moves the policy. Left out: every option of TRL's beyond its defaults.

Book: tlcr.md
"""

import torch
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from densereward.reward.masks import preferred_by
from densereward.training.appo import shares, sides
from densereward.training.counting import Counted, Referenced
from densereward.training.gtpo import GTPOTrainer
from densereward.training.masked import mask_advantages
from densereward.training.remax import ReMaxConfig, ReMaxTrainer
from densereward.training.step_advantages import DenseGRPOTrainer, DenseRLOOTrainer
from densereward.training.vine import VineTrainer


class CountedRLOO(Counted, RLOOTrainer):
    """TRL's, with `curves`."""


class CountedGRPO(Counted, GRPOTrainer):
    """TRL's, with `curves`."""


class MaskedGRPO(Referenced, GRPOTrainer):
    """TRL's, whose policy learns from the tokens that `decide` keeps, a `mask.Decider`: adaptive-mask's mask on the
    surrogate (Eq. 14), which the paper says serves GRPO too. Preferred are the responses whose advantage in their group
    is above 0. `curves` say what was kept (`appo.shares`) and what was good (`appo.sides`)."""

    def __init__(self, model, *, decide, **trl):
        super().__init__(model, **trl)
        self.decide = decide

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]
        chosen = preferred_by("group", None, batch["advantages"][:, None], mask)  # [B]
        found = self.decide(self.with_reference(batch), chosen)
        self.noted |= shares(found, mask) | sides(found, mask, chosen)
        return mask_advantages(batch, found.mask)


TRAINERS = {
    "rloo": (RLOOConfig, CountedRLOO),
    "grpo": (GRPOConfig, CountedGRPO),
    "gtpo": (GRPOConfig, GTPOTrainer),
    "remax": (ReMaxConfig, ReMaxTrainer),
    "vine": (ReMaxConfig, VineTrainer),
    "dense-grpo": (GRPOConfig, DenseGRPOTrainer),
    "dense-rloo": (GRPOConfig, DenseRLOOTrainer),
}


def trainer_of(
    kind: str,
    policy,
    reward,
    metrics,
    kl_coef: float,
    settings: dict,
    generations: int | None = None,
    decide=None,
    **trl,
) -> Counted:
    """The trainer `kind` of a policy loaded from the SFT model's folder, from which TRL loads the reference too.

    `reward` and `metrics` are TRL reward functions, the metrics read and never trained on; for "dense-..." `reward` is
    a `step_advantages.DenseGRPOTrainer`'s reward_fn. `settings` are fields of its config, `generations` the responses
    to a prompt, the other arguments TRL's, or the trainer's own. ValueError, TRL's, where `generations` does not divide
    the rollout batch; KeyError for another kind, or a mask (`decide`) for another than "grpo"."""
    config, trainer = TRAINERS[kind]
    if decide is not None:
        trainer, trl = {"grpo": MaskedGRPO}[kind], trl | {"decide": decide}
    args = config(
        **{"lr_scheduler_type": "constant"} | settings,
        **({} if generations is None else {"num_generations": generations}),
        beta=kl_coef,
        reward_weights=[1.0] + [0.0] * len(metrics),
        disable_dropout=True,
    )
    if issubclass(trainer, DenseGRPOTrainer):
        return trainer(policy, reward_fn=reward, reward_funcs=metrics, args=args, **trl)
    return trainer(policy, reward_funcs=[reward, *metrics], args=args, **trl)
