"""What moves a policy: the advantages that a row's trainer would learn from, on answers whose credit is known.

PPO: GAE with the critic as it is after its warm-up. Trainers without a critic need what they compare an answer with:
further answers of the SFT model to the same prompt, as many as in training, its greedy one, or what it finishes these
answers with. RLOO and GRPO on a total are those on steps with a single step, the last token. A row's mask, or its share
of tokens by entropy, is laid on, and what it takes out moves nothing. PPO's and Vine's advantages are whitened before,
as in training.

At the SFT model, where these are measured, log-ratios to the reference are 0, and so is the KL penalty of any of them.

These answers are a mask's round: its means, the running one too, and who is preferred are those of this one batch, but
for the groups of GRPO. Left out: DPO and rejection sampling, whose losses hold no advantages.
"""

import torch

from densereward.reward import dense
from densereward.reward.masks import preferred_by
from densereward.seeding import derive
from densereward.text import sampling
from densereward.text.models import TokenScorer, to_device
from densereward.text.tokens import joined
from densereward.training import vine
from densereward.training.gtpo import gtpo_advantages
from densereward.training.macro import macro_gae
from densereward.training.masked import mask_advantages
from densereward.training.ppo import gae, whiten
from densereward.training.step_advantages import leave_one_out, step_advantages
from study.methods import Method
from study.run import Run
from study.stages import groups, mask, reward

TRAINERS = ("ppo", "rloo", "grpo", "gtpo", "dense-rloo", "dense-grpo", "remax", "vine")


@torch.no_grad()
def advantages(run: Run, told, found: dict) -> torch.Tensor:
    """Advantages [B, T] of the answers `found` (prompt_ids, completion_ids) under a run's row, `told` of
    `measure.paid`. Random: further answers of groups (seed)."""
    values, row = None, run.method
    if row.trainer == "ppo":
        gained, values = by_critic(run, told)
    elif row.trainer == "remax":
        limit = run.profile.max_completion_length
        greedy = sampling.continued(told.reference, told.tokenizer, found["prompt_ids"], limit, **sampling.GREEDY)
        baseline = sampling.batch_of(told.reference, told.tokenizer, found["prompt_ids"], greedy)
        gained = (told.batch["rewards"].sum(1) - told.reward_fn(baseline).sum(1))[:, None]
    elif row.trainer == "vine":
        gained = by_continuations(run, told, found)
    else:
        gained = in_groups(run, told, found)
    gained = gained * told.batch["completion_mask"]
    if row.trainer in ("ppo", "vine"):
        gained = whiten(gained, told.batch["completion_mask"])
    if (share := row.options.get("top_entropy_quantile", 1.0)) < 1:
        real, entropies = told.batch["completion_mask"].bool(), told.batch["ref_entropies"]
        gained = gained * (entropies >= torch.quantile(entropies[real], 1 - share))
    return masked(run, told, gained, values) if run.mask else gained


@torch.no_grad()
def by_critic(run: Run, told) -> tuple[torch.Tensor, torch.Tensor]:
    """(GAE advantages, values), both [B, T], of `measure.paid`'s batch, at the row's gamma and lambda or the profile's;
    over macro actions where the row has some."""
    batch = told.batch
    options = {"gamma": 1.0, "lam": run.profile.lam} | run.row.options
    horizon = options["gamma"], options["lam"]
    critic = to_device(TokenScorer.from_pretrained(run.policy.path / "critic", dtype=torch.float32)).eval()
    length, mask = batch["completion_ids"].size(1), batch["completion_mask"]
    values = critic.token_scores(*joined(batch))[:, -length - 1 : -1] * mask
    if "macro" in options:
        ids = dense.segment_ids(options["macro"], batch, told.tokenizer)
        return macro_gae(batch["rewards"], values, ids, *horizon)[0], values
    return gae(batch["rewards"], values, mask, *horizon)[0], values


def by_continuations(run: Run, told, found: dict) -> torch.Tensor:
    """Vine's advantages [B, T], before they are whitened. Random: the continuations (seed)."""
    row, limit = run.method, run.profile.max_completion_length
    prompts, answers = found["prompt_ids"], found["completion_ids"]
    ids = dense.segment_ids(row.options["cuts"], told.batch, told.tokenizer)

    def finish(prefixes):
        return sampling.sample(told.reference, told.tokenizer, prefixes, limit, derive(run.seed, "credit", "vine"))

    def score(rows, ended):
        parts = [slice(i, i + vine.ROWS) for i in range(0, len(rows), vine.ROWS)]
        batches = (
            sampling.batch_of(told.reference, told.tokenizer, [prompts[i] for i in rows[x]], ended[x]) for x in parts
        )
        return [total for batch in batches for total in told.reward_fn(batch).sum(1).tolist()]

    values = vine.start_values(prompts, answers, ids, row.options["continuations"], limit, finish, score)
    return vine.differences(values, told.batch["rewards"].sum(1), ids)


def in_groups(run: Run, told, found: dict) -> torch.Tensor:
    """Advantages [B, T] of RLOO, GRPO and GTPO, each answer the first of a group. Random: the others (seed)."""
    row = run.method
    k, tokenizer, limit = row.options["generations"], told.tokenizer, run.profile.max_completion_length
    prompt_ids = [ids for ids in found["prompt_ids"] for _ in range(k)]
    answers = sampling.sample(told.reference, tokenizer, prompt_ids, limit, derive(run.seed, "credit", "group"))
    answers[::k] = found["completion_ids"]
    batch = sampling.batch_of(told.reference, tokenizer, prompt_ids, answers)
    rewards, steps = group_rewards(row, told.reward_fn, tokenizer)(batch)
    width = told.batch["completion_mask"].size(1)
    if row.trainer == "gtpo":
        totals = rewards.sum(1).unflatten(0, (-1, k))  # [P, K]
        good = (totals > totals.mean(1, keepdim=True)).flatten()
        return gtpo_advantages(good, batch["ref_entropies"], batch["completion_mask"], k)[::k, :width]
    compare = leave_one_out if row.trainer.endswith("rloo") else step_advantages
    return compare(rewards, steps, k)[::k, :width]


def group_rewards(row: Method, paid, tokenizer):
    """batch -> (rewards [B, T], the steps they are paid at, bool [B, T]): the row's segments where its trainer is told
    them, the whole answer at its last token otherwise."""
    if row.trainer.startswith("dense-"):
        return groups.at_steps(row, paid, tokenizer)

    def total(batch: dict):
        mask = batch["completion_mask"]
        last = torch.arange(mask.size(1), device=mask.device) == mask.sum(1, keepdim=True) - 1  # [B, T]
        return paid(batch).sum(1, keepdim=True) * last, last

    return total


def masked(run: Run, told, gained: torch.Tensor, values) -> torch.Tensor:
    """Advantages `gained` [B, T] (PPO's are whitened) times the row's mask; `values` [B, T] are a critic's, or None."""
    batch, row = told.batch, run.row
    reward_fn, _ = reward.saved(run.mask, run.policy.path / "mask", told.tokenizer, "credit")
    decide = mask.Decider(reward_fn, row.mask, told.tokenizer)
    chosen = preferred_by(decide.preferred, batch["rewards"], gained, batch["completion_mask"])  # [B]
    return mask_advantages(batch | {"advantages": gained}, decide(batch, chosen, values).mask)["advantages"]
