"""The reward that a DPO policy is: how much more likely than its reference it finds a token.

DPO's loss is that of a reward model on sequences whose score is beta log(pi / pi_ref) (Rafailov et al. 2023, arXiv
2305.18290); its tokens' shares of it are a token reward that no label of a token taught (Rafailov et al. 2024, arXiv
2404.12358; as a process reward model: Yuan et al. 2024, arXiv 2412.01981). beta is a scale, and drops out where rewards
are put on one.

Left out: PRIME's updates of that policy while PPO runs (arXiv 2502.01456); cross entropy in place of DPO's loss.

Book: reward_models.md
"""

import torch
import torch.nn.functional as F

from densereward.text.logprobs import fused_head


class LogRatioScorer(torch.nn.Module):
    """Reads log(pi / pi_ref) (nats) at every token, where a `models.TokenScorer` reads its head."""

    def __init__(self, policy, reference):
        super().__init__()
        self.policy, self.reference = policy, reference

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def token_scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """[B, L]; zero on padding and on a row's first token, which nothing predicts."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        told = {"input_ids": input_ids, "attention_mask": mask}
        told["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        told["labels"] = input_ids.masked_fill((mask == 0) | (mask.cumsum(1) == 1), -100)
        both = self.policy, self.reference
        ours, theirs = (fused_head(x)(**told, fused_lm_head=True).log_probs for x in both)
        return F.pad(ours - theirs, (1, 0)).masked_fill(told["labels"] == -100, 0)
