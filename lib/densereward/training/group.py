"""Trainers without a critic: RLOO and GRPO by TRL's own, ReMax, and GRPO on a reward per segment (`steps.py`).

RLOO and GRPO take several responses to a prompt as each other's baseline. Their advantages, losses, clipping and
defaults are TRL's. The KL coefficient is the profile's and stands where TRL has it: RLOO subtracts it from the reward,
times the log-ratio summed over a response, before the baseline; GRPO divides rewards by their deviation within the
group, and adds the coefficient to the loss of each token, times the estimator exp(-x) + x - 1 of its log-ratio x.

As many responses as any method: with k per prompt, a k-th of the prompts. Without a critic to warm up, every update
moves the policy. Left out: every option of TRL's beyond its defaults.
"""

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from densereward.training.counting import Counted
from densereward.training.remax import ReMaxConfig, ReMaxTrainer
from densereward.training.steps import DenseGRPOTrainer


class CountedRLOO(Counted, RLOOTrainer):
    """TRL's, with `curves`."""


class CountedGRPO(Counted, GRPOTrainer):
    """TRL's, with `curves`."""


TRAINERS = {
    "rloo": (RLOOConfig, CountedRLOO),
    "grpo": (GRPOConfig, CountedGRPO),
    "remax": (ReMaxConfig, ReMaxTrainer),
    "dense-grpo": (GRPOConfig, DenseGRPOTrainer),
}


def trainer_of(
    kind: str, policy, reward, metrics, kl_coef: float, settings: dict, generations: int | None = None, **trl
) -> Counted:
    """The trainer `kind` of a policy loaded from the SFT model's folder, from which TRL loads the reference too.

    `reward` and `metrics` are TRL reward functions, the metrics read and never trained on; for "dense-grpo" `reward` is
    a `steps.DenseGRPOTrainer`'s reward_fn. `settings` are fields of its config, `generations` the responses to a
    prompt, the other arguments TRL's. ValueError, TRL's, where `generations` does not divide the rollout batch;
    KeyError for another kind."""
    config, trainer = TRAINERS[kind]
    args = config(
        **settings,
        **({} if generations is None else {"num_generations": generations}),
        beta=kl_coef,
        reward_weights=[1.0] + [0.0] * len(metrics),
        disable_dropout=True,
        lr_scheduler_type="constant",
    )
    if trainer is DenseGRPOTrainer:
        return trainer(policy, reward_fn=reward, reward_funcs=metrics, args=args, **trl)
    return trainer(policy, reward_funcs=[reward, *metrics], args=args, **trl)
