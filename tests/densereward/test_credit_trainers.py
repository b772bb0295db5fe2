"""What would break: rows that are called another method's and are plain PPO, or are not where they must be."""

import copy
import itertools

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.reward.segments import segment_ids
from densereward.training import group, vine
from densereward.training.macro import MacroPPOTrainer, at_end, macro_gae
from densereward.training.ppo import DensePPOConfig, gae
from test_baselines import common, even, load
from test_ppo import PROMPTS, TOKENIZER, bandit, models, same, scored, trainer, weights


def trained(out, make=None, parts=None, **changes):
    """Weights of a policy after two rollout batches of two updates each."""
    parts = parts or models()
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "steps_per_generation": 2, "kl_coef": 0.05, "lam": 0.9}
    run = trainer(out, parts, bandit, **(given | changes)) if make is None else make(out, parts, given | changes)
    run.train()
    return weights(parts[0])


# --- forking tokens


def test_a_share_of_one_is_ppo_to_the_bit_and_less_is_not(tmp_path):
    plain = trained(tmp_path)
    assert same(plain, trained(tmp_path, top_entropy_quantile=1.0))
    assert not same(plain, trained(tmp_path, top_entropy_quantile=0.2))


def test_only_the_tokens_of_highest_entropy_of_the_rollout_batch_have_an_advantage(tmp_path):
    """And theirs is what it would be without the choice; micro-batches have no say in it."""
    every = scored(trainer(tmp_path, models(), bandit))
    run = trainer(tmp_path, models(), bandit, top_entropy_quantile=0.25)
    chosen, mask = scored(run), every["completion_mask"].bool()
    entropies = run._entropies  # the reference's pass was the last
    run._get_per_token_logps_and_entropies(
        run.model,
        torch.cat([chosen["prompt_ids"], chosen["completion_ids"]], 1),
        torch.cat([chosen["prompt_mask"], chosen["completion_mask"]], 1),
        mask.size(1),
        8,
    )
    assert not torch.equal(entropies, run._entropies)
    kept = chosen["advantages"] != 0
    floor = run._entropies[kept].min()
    assert run._entropies[mask & ~kept].max() <= floor
    assert abs(kept.sum().item() / mask.sum().item() - 0.25) < 1 / mask.sum() + 0.02
    assert torch.equal(chosen["advantages"][kept], every["advantages"][kept])
    parts = [models() for _ in range(2)]
    one, two = (
        trained(
            tmp_path, parts=p, per_device_train_batch_size=size, steps_per_generation=8 // size,
            gradient_accumulation_steps=8 // size, max_steps=2, top_entropy_quantile=0.25, kl_coef=0.0,
        )
        for p, size in zip(parts, (8, 2))
    )  # fmt: skip
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-5, rtol=1e-4)


# --- macro actions


def macro(out, parts, given, n: int = 1):
    policy, ref, critic = parts
    args = {
        "max_completion_length": 10, "learning_rate": 1e-2, "critic_learning_rate": 1e-2, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "seed": 7,
    }  # fmt: skip
    return MacroPPOTrainer(
        policy,
        segmentation={"kind": "ngram", "n": n},
        reward_fn=bandit,
        ref_model=ref,
        critic=critic,
        args=DensePPOConfig(str(out), **(args | given)),
        train_dataset=Dataset.from_list(PROMPTS),
        processing_class=TOKENIZER,
    )


def test_macro_actions_of_one_token_are_ppo_to_the_bit(tmp_path):
    plain = trained(tmp_path)
    assert same(plain, trained(tmp_path, macro))
    assert not same(plain, trained(tmp_path, lambda *given: macro(*given, n=5)))


def test_gae_over_macro_actions_equals_a_loop_over_them():
    ids = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 2, 2, 2]])
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 2, 6, generator=draw)
    advantages, returns = macro_gae(rewards, values, ids, 0.9, 0.8)
    for row in range(2):
        steps = [ids[row] == s for s in range(int(ids[row].max()) + 1)]
        ahead = following = 0.0
        for step in reversed(steps):
            value = values[row][step].mean()
            ahead = rewards[row][step].sum() + 0.9 * following - value + 0.9 * 0.8 * ahead
            following = value
            assert torch.allclose(advantages[row][step], ahead) and torch.allclose(returns[row][step], ahead + value)
    assert (advantages[ids < 0] == 0).all()
    mask = torch.ones(2, 6)
    each = segment_ids(mask.bool(), mask)
    assert torch.equal(macro_gae(rewards, values, each, 0.9, 0.8)[0], gae(rewards, values, mask, 0.9, 0.8)[0])


def test_the_ratio_is_that_of_the_macro_action_and_each_of_its_tokens_has_the_gradient(tmp_path):
    logps = torch.tensor([[-1.0, -2.0, -3.0, -0.5, 0.0]], requires_grad=True)
    ids = torch.tensor([[0, 0, 0, 1, -1]])
    joined = at_end(logps, ids)
    assert joined.tolist() == [[-1.0, -2.0, -6.0, -0.5, 0.0]]
    (joined * torch.tensor([[0.0, 0.0, 2.0, 3.0, 0.0]])).sum().backward()
    assert logps.grad.tolist() == [[2.0, 2.0, 2.0, 3.0, 0.0]]
    batch = scored(macro(tmp_path, models(), {"per_device_train_batch_size": 8}, n=3))
    carried = (batch["advantages"] != 0).sum(1)
    assert torch.equal(carried, (batch["completion_mask"].sum(1) + 2) // 3), "one token stands for its macro action"


# --- Monte Carlo values

WORDS = (1, 2)  # of a policy that says either with equal chance, for three tokens


def exactly(limit: int):
    """All continuations of a prefix of one prompt token in place of samples of them."""

    def finish(prefixes):
        found = []
        for prefix, alike in itertools.groupby(prefixes, tuple):
            left, n = limit - (len(prefix) - 1), len(list(alike))
            every = list(itertools.product(WORDS, repeat=left))
            found += [list(x) for x in every] * (n // len(every))
        return found

    return finish


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=3), st.lists(st.sampled_from(WORDS), min_size=3, max_size=3))
def test_values_of_all_continuations_are_the_true_ones_and_differences_add_up(starts, answer):
    """Worth is no sum over tokens, so that a span's own share says nothing."""

    def worth(x):
        return float(x[0] * x[1] - 3 * (x[1] == x[2]) + x[2] ** 2)

    mask = torch.ones(1, 3)
    ids = segment_ids(torch.tensor([starts]), mask)
    values = vine.start_values([[9]], [answer], ids, 8, 3, exactly(3), lambda rows, said: [worth(x) for x in said])
    cuts = [t for t in range(3) if t == 0 or starts[t]]
    true = [sum(worth([*answer[:t], *x]) for x in itertools.product(WORDS, repeat=3 - t)) / 2 ** (3 - t) for t in cuts]
    assert values[0].tolist() == pytest.approx(true)
    gained = vine.differences(values, torch.tensor([worth(answer)]), ids)
    first = torch.tensor(cuts)
    assert gained[0, first].sum().item() == pytest.approx(worth(answer) - true[0]), "they do not add up"
    assert gained[0].tolist() == pytest.approx(gained[0, first][ids[0]].tolist()), "tokens of a segment differ"


def test_rows_of_several_lengths_keep_their_own_values():
    ids = torch.tensor([[0, 0, 1], [0, -1, -1]])
    values = torch.tensor([[1.0, 2.0], [5.0, 0.0]])
    assert vine.differences(values, torch.tensor([4.0, 3.0]), ids).tolist() == [[1.0, 1.0, 2.0], [-2.0, 0.0, 0.0]]


def vines(out, model, **changes):
    return group.trainer_of(
        "vine", model, even, [], 0.05, common(out, **changes), cuts={"kind": "ngram", "n": 3}, continuations=2,
        train_dataset=Dataset.from_list(PROMPTS), processing_class=TOKENIZER,
    )  # fmt: skip


def test_it_learns_and_counts_what_it_finishes(tmp_path, folder):
    run = vines(tmp_path, load(folder), max_steps=25)
    run.train()
    share = [row["even"] for row in run.curves]
    assert sum(share[-5:]) / 5 > sum(share[:5]) / 5 + 0.15
    row = run.curves[0]
    assert row["responses"] > 16 * 2 and row["tokens"] > 16 * row["length"] * 2


def test_its_advantages_are_whitened_differences_of_means(tmp_path, folder, monkeypatch):
    seen = {}

    def spy(*given):
        seen["values"], seen["ids"] = vine_values(*given), given[2]
        return seen["values"]

    vine_values = vine.start_values
    monkeypatch.setattr(vine, "start_values", spy)
    run = vines(tmp_path, load(folder))
    run.model.train()
    run.noted, run.sums = {}, {}
    batch = run._generate_and_score_completions(copy.deepcopy(PROMPTS[:16]))
    mask, gained = batch["completion_mask"].bool(), batch["advantages"]
    assert gained[mask].mean().abs() < 1e-5 and gained[mask].std(correction=0) == pytest.approx(1, abs=1e-3)
    answers = [ids[m].tolist() for ids, m in zip(batch["completion_ids"], mask)]
    raw = vine.differences(seen["values"], torch.tensor(even(answers)), seen["ids"])
    assert torch.corrcoef(torch.stack([raw[mask], gained[mask]]))[0, 1] == pytest.approx(1, abs=1e-5)
