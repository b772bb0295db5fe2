"""ReMax: REINFORCE with the reward of the greedy answer as baseline, on TRL's GRPO trainer, without a critic.

Follows Li et al. 2023 (arXiv 2310.10505), the baseline of tlcr Table 1. A response's advantage at token t is its score,
minus the score of the greedy answer to its prompt, minus the KL penalty of the tokens from t on. TRL keeps rollouts and
the clipped loss over tokens: at the first update of a rollout batch it is REINFORCE's; ReMax makes one update of a
batch, here as many as of any method.

The greedy answers are sampled beyond what other methods sample: `curves` counts them, and says what they score
(`greedy_reward`). Small models loop when they decode greedily, up to the maximum length, and then the baseline is that
of a loop. As in the released code, it holds no KL.

Left out of that code: each token is charged its own KL alone there, scores are clipped at 5, and responses are sampled
from the nucleus of .9.

Book: tlcr.md
"""

import time
from dataclasses import dataclass

import torch
from transformers import GenerationConfig
from trl import GRPOConfig, GRPOTrainer

from densereward.training.counting import Counted


@dataclass
class ReMaxConfig(GRPOConfig):
    """TRL's `GRPOConfig` for one response per prompt; `beta` is the KL coefficient, in the reward."""

    def __post_init__(self):
        if self.use_vllm or self.use_transformers_continuous_batching:
            raise ValueError("ReMax decodes greedily with transformers: set use_vllm and continuous batching to False")
        self.num_generations = 2  # TRL refuses 1, though everything but that check works with it
        super().__post_init__()
        self.num_generations = 1


def to_go(x: torch.Tensor) -> torch.Tensor:
    """Sums from each column on, [B, T]."""
    return x.flip(1).cumsum(1).flip(1)


class ReMaxTrainer(Counted, GRPOTrainer):
    """The first of `reward_funcs` is the reward, the others are metrics. TRL loads the reference from where the policy
    was loaded. Where that has no weight (`beta` 0), there is none."""

    _name = "ReMax"

    def __init__(self, model, *, args: ReMaxConfig, **trl):
        super().__init__(model, args=args, **trl)
        self.kl_coef, self.beta = self.beta, 0.0  # with a beta, TRL's loss would hold a KL term of its own
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        self.greedy_kwargs = self.generation_kwargs | greedy

    def _generate(self, prompts):
        found = super()._generate(prompts)
        started, kept = time.perf_counter(), (self.generation_config, self.generation_kwargs)
        self.generation_config = GenerationConfig(**self.greedy_kwargs, disable_compile=True)
        self.generation_kwargs = self.greedy_kwargs
        self.greedy_ids, _ = self._generate_single_turn(found[0], None, {}, 1)
        self.generation_config, self.generation_kwargs = kept
        self.sampled(self.greedy_ids, time.perf_counter() - started)
        return found

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # of all processes
        texts = self.processing_class.batch_decode(self.greedy_ids, skip_special_tokens=True)
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        baseline = self.reward_funcs[0](prompts=prompts, completions=answers, completion_ids=self.greedy_ids)
        first = self.accelerator.process_index * len(prompts)
        scores = found[first : first + len(prompts), 0]
        baseline = torch.tensor(baseline, dtype=scores.dtype, device=scores.device)  # [B]
        self.gains = scores - baseline
        self.noted["greedy_reward"] = self.accelerator.reduce(baseline.mean(), reduction="mean").item()
        return found

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"]
        kl = torch.zeros_like(batch["old_per_token_logps"])
        if self.ref_model is not None:
            kl = (batch["old_per_token_logps"] - self.logps(self.ref_model, batch)) * mask
        return batch | {"advantages": (self.gains[:, None] - self.kl_coef * to_go(kl)) * mask}
