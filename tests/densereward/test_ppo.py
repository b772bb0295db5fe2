"""What would break: a policy trained on rewards that reach the wrong tokens, or whose runs cannot be repeated."""

import copy

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.models import TokenScorer, build_tokenizer, scorer_from, tiny_llama
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer, gae, value_loss

TOKENIZER = build_tokenizer(["the cat sat on the mat", "a dog and a cat", "on and on and on"], 280)
TEXTS = [word * n for word in ("cat ", "dog ", "mat ", "on ") for n in range(1, 5)]
PROMPTS = [{"prompt": [{"role": "user", "content": text}]} for text in TEXTS]


def models(seed: int = 0, zero_critic: bool = False):
    """A policy, an SFT model that differs from it, and a critic; with `zero_critic`, one that values everything at 0.

    One token in seven ends a response, so that lengths differ."""
    torch.manual_seed(seed)
    policy, ref = tiny_llama(TOKENIZER, 32, 1), tiny_llama(TOKENIZER, 32, 1)
    policy.generation_config.eos_token_id = [TOKENIZER.eos_token_id, *range(100, 140)]
    critic = scorer_from(policy)
    if zero_critic:
        torch.nn.init.zeros_(critic.head.weight)
    return policy, ref, critic


def trainer(folder, parts, reward_fn, callbacks=(), metrics=(), prompts=PROMPTS, **settings):
    policy, ref, critic = parts
    args = {
        "per_device_train_batch_size": 8, "max_completion_length": 10, "max_steps": 1, "learning_rate": 1e-2,
        "critic_learning_rate": 1e-2, "kl_coef": 0.0, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "report_to": "none", "disable_tqdm": True, "seed": 7,
    }  # fmt: skip
    return DensePPOTrainer(
        policy,
        reward_fn=reward_fn,
        ref_model=ref,
        critic=critic,
        args=DensePPOConfig(str(folder), **(args | settings)),
        metrics=list(metrics),
        train_dataset=Dataset.from_list(prompts),
        processing_class=TOKENIZER,
        callbacks=list(callbacks),
    )


def last(mask):
    """One-hot [B, T] at each response's last real token."""
    return mask * (mask.cumsum(1) == mask.sum(1, keepdim=True))


def bandit(batch):
    """A reward that differs between responses, paid at the last token."""
    score = (batch["completion_ids"] % 7 * batch["completion_mask"]).sum(1, keepdim=True) / 10.0
    return last(batch["completion_mask"]) * score


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Gradients(TrainerCallback):
    """Keeps the mean over updates of every parameter's gradient."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        found = getattr(self, "found", {})
        self.found = {name: found.get(name, 0) + p.grad / args.max_steps for name, p in model.named_parameters()}


# --- formulas


def slow_gae(rewards, values, lengths, gamma, lam):
    advantages = torch.zeros_like(rewards)
    for b, length in enumerate(lengths):
        following_advantage = following_value = 0.0
        for t in reversed(range(length)):
            delta = rewards[b, t] + gamma * following_value - values[b, t]
            following_advantage = advantages[b, t] = delta + gamma * lam * following_advantage
            following_value = values[b, t]
    return advantages


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gae_equals_a_loop_and_padding_never_leaks(data):
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    gamma, lam = (data.draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])) for _ in range(2))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    rewards, values = torch.randn(2, len(lengths), 9, generator=g)
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    expected = slow_gae(rewards, values, lengths, gamma, lam)
    for junk in (0.0, float("nan"), 1e30):
        junked = [x.masked_fill(mask == 0, junk) for x in (rewards, values)]
        advantages, returns = gae(*junked, mask, gamma, lam)
        torch.testing.assert_close(advantages, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(returns, expected + values * mask, atol=1e-5, rtol=1e-5)


def test_gae_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="shapes"):
        gae(torch.zeros(2, 1), torch.zeros(2, 3), torch.ones(2, 3), 1.0, 1.0)


@given(st.tuples(*[st.floats(-2, 2, width=32)] * 3), st.sampled_from([0.2, 0.25]))
def test_value_loss_equals_the_case_by_case_definition(numbers, clip):
    value, old, target = numbers
    held = min(max(value, old - clip), old + clip)
    expected = max((value - target) ** 2, (held - target) ** 2) / 2
    found = value_loss(*(torch.tensor([[x]]) for x in numbers), clip).item()
    assert found == pytest.approx(expected, abs=1e-5)


# --- gradients


@pytest.mark.parametrize("baseline, loss_type", [(False, "dapo"), (True, "dapo"), (True, "grpo")])
@pytest.mark.parametrize(
    "split", [(8, 1, 1), (4, 2, 2), (4, 1, 2)], ids=["one batch", "two micro-batches", "two updates"]
)
def test_first_update_is_reinforce_and_regression(tmp_path, split, baseline, loss_type):
    """Bandit reward, gamma = lambda = 1, no whitening or KL: the policy's gradient is that of -sum (R - V) log p over
    the number of tokens, the critic's that of half the mean squared error, however the rollout batch is split; under
    "grpo" both are means over responses of means over tokens."""
    parts, seen, gradients = models(zero_critic=not baseline), [], Gradients()
    policy, _, critic = copy.deepcopy(parts)

    def reward_fn(batch):
        seen.append((batch, bandit(batch)))
        return seen[-1][1]

    size, accumulated, steps = split
    run = trainer(
        tmp_path, parts, reward_fn, [gradients], per_device_train_batch_size=size, steps_per_generation=steps,
        gradient_accumulation_steps=accumulated, max_steps=steps // accumulated, learning_rate=0.0,
        critic_learning_rate=0.0, whiten_advantages=False, max_grad_norm=0.0, loss_type=loss_type,
    )  # fmt: skip
    run.train()
    (batch, rewards), mask = seen[0], seen[0][0]["completion_mask"]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention, returns = torch.cat([batch["prompt_mask"], mask], 1), rewards.sum(1, keepdim=True)
    values = critic.token_scores(ids, attention)[:, batch["prompt_ids"].size(1) - 1 : -1]
    logps, _ = logprobs_and_entropy(policy, ids, attention, mask.size(1))
    share = mask / mask.sum() if loss_type == "dapo" else mask / mask.sum(1, keepdim=True) / len(mask)  # of a token
    (-((returns - values.detach()) * logps * share).sum()).backward()
    error = ((values - returns) ** 2 * share).sum() / 2
    error.backward()
    assert run.curves[0]["value_loss"] == pytest.approx(error.item(), rel=1e-4)
    assert len(seen) == 1 and returns.std() > 0 and values.any() == baseline
    expected = dict(policy.named_parameters()) | {f"critic.{name}": p for name, p in critic.named_parameters()}
    assert expected.keys() == gradients.found.keys()
    for name, p in expected.items():
        torch.testing.assert_close(gradients.found[name], p.grad, atol=1e-6, rtol=1e-4, msg=name)


def logp_gradient(folder, reward_fn, plant=None, **settings):
    """Gradient of the first update's loss by the log-probability of every completion token [B, T], and the mask."""
    run = trainer(folder, models(zero_critic=True), reward_fn, whiten_advantages=False, vf_coef=0.0, **settings)
    score, compute = run._get_per_token_logps_and_entropies, run._compute_loss
    kept = []

    def spy(*args, **kwargs):
        outputs = score(*args, **kwargs)
        if outputs[0].requires_grad:
            outputs[0].retain_grad()
            kept.append(outputs[0])
        return outputs

    def planted(model, inputs):
        kept.append(inputs["completion_mask"])
        return compute(model, inputs if plant is None else inputs | {"advantages": plant(inputs)})

    run._get_per_token_logps_and_entropies, run._compute_loss = spy, planted
    run.train()
    mask, logps = kept
    return logps.grad, mask


def at(mask, row, column):
    found = torch.zeros_like(mask, dtype=torch.float32)
    found[row, column] = 1.0
    return found


def test_an_advantage_planted_on_a_token_reaches_its_log_probability_only(tmp_path):
    def plant(inputs):
        return at(inputs["completion_mask"], inputs["completion_mask"].sum(1).argmax(), 4)

    gradient, mask = logp_gradient(tmp_path, bandit, plant)
    torch.testing.assert_close(gradient, -at(mask, mask.sum(1).argmax(), 4) / mask.sum())


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_reward_planted_on_a_token_reaches_it_alone_or_all_before(tmp_path, lam):
    """Off by one, credit would go to the neighbour; at lambda = 1 to the tokens that follow."""
    gradient, mask = logp_gradient(tmp_path, lambda batch: at(batch["completion_mask"], slice(None), 4), lam=lam)
    target = at(mask, slice(None), 4 if lam == 0 else slice(0, 5)) * mask * mask[:, 4:5]
    torch.testing.assert_close(gradient.sort(0).values, (-target / mask.sum()).sort(0).values)  # rows are shuffled


# --- rewards, KL, whitening


def scored(run):
    """The first rollout batch of a trainer, scored."""
    run.model.train()
    return run._generate_and_score_completions(PROMPTS[:8])


def test_kl_lowers_the_reward_where_the_policy_is_surer_than_the_sft_model(tmp_path):
    parts, seen = models(zero_critic=True), []

    def reward_fn(batch):
        seen.append(batch)
        return bandit(batch)

    run = trainer(tmp_path, parts, reward_fn, kl_coef=0.5, lam=0.0, whiten_advantages=False)
    batch, mask = scored(run), seen[0]["completion_mask"]
    kl = (batch["old_per_token_logps"] - seen[0]["ref_logps"]) * mask
    torch.testing.assert_close(batch["advantages"], bandit(batch) - 0.5 * kl)
    assert run.curves[0]["kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-4)
    assert run.curves[0]["proxy_reward"] == pytest.approx(bandit(batch).sum(1).mean().item(), rel=1e-4)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    with torch.no_grad():
        expected = logprobs_and_entropy(parts[1], ids, torch.cat([batch["prompt_mask"], mask], 1), mask.size(1))
    torch.testing.assert_close(seen[0]["ref_logps"], expected[0])
    torch.testing.assert_close(seen[0]["ref_entropies"], expected[1])


def test_whitening_counts_real_tokens_only(tmp_path):
    batch = scored(trainer(tmp_path, models(), bandit))
    real = batch["completion_mask"].bool()
    assert 0 < real.sum() < real.numel(), "the batch must hold padding"
    assert batch["advantages"][real].mean().abs() < 1e-5
    assert batch["advantages"][real].var(correction=0) == pytest.approx(1, abs=1e-3)
    assert not batch["advantages"][~real].any() and not batch["returns"][~real].any()


def test_values_are_those_of_the_state_before_each_token(tmp_path):
    """A critic that sees the token it judges would explain the reward away."""
    parts = models()
    critic = copy.deepcopy(parts[2])
    batch = scored(trainer(tmp_path, parts, bandit))
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    before = batch["prompt_ids"].size(1) - 1
    with torch.no_grad():
        expected = critic.token_scores(ids, mask)[:, before:-1] * batch["completion_mask"]
    torch.testing.assert_close(batch["old_values"], expected)


@pytest.mark.parametrize("zero_critic", [True, False])
def test_explained_variance_is_the_share_that_the_critic_takes_away(tmp_path, zero_critic):
    """0 for a critic that knows nothing; else one less the variance of its errors over that of returns, real tokens."""
    run = trainer(tmp_path, models(zero_critic=zero_critic), bandit)
    batch, found = scored(run), run.curves[0]["explained_variance"]
    real = batch["completion_mask"].bool()
    returns, errors = batch["returns"][real], (batch["returns"] - batch["old_values"])[real]
    assert found == pytest.approx(1 - (errors.var(correction=0) / returns.var(correction=0)).item(), abs=1e-4)
    assert zero_critic == (abs(found) < 1e-6) and abs(found - 0.5) > 1e-3, "one half would be one less itself"


def test_curves_are_means_over_answers_or_over_real_tokens(tmp_path):
    """Padding counted in, a policy that answers briefly would look surer than it is."""
    parts = models()
    policy = copy.deepcopy(parts[0])
    run = trainer(tmp_path, parts, bandit, max_completion_length=3)
    batch, row = scored(run), run.curves[0]
    mask = batch["completion_mask"]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    with torch.no_grad():
        entropies = logprobs_and_entropy(policy, ids, torch.cat([batch["prompt_mask"], mask], 1), mask.size(1))[1]
    assert mask.sum() < mask.numel(), "the batch must hold padding"
    assert row["entropy"] == pytest.approx(entropies[mask.bool()].mean().item(), abs=1e-5)
    assert row["length"] == pytest.approx(mask.sum().item() / 8)
    ends = batch["completion_ids"].gather(1, mask.sum(1, keepdim=True) - 1)
    unended = (~torch.isin(ends, torch.tensor(policy.generation_config.eos_token_id))).float().mean().item()
    assert row["truncated"] == pytest.approx(unended) and unended != 0.5, "one half would be one less itself"


def test_the_seed_and_the_epoch_order_the_prompts(tmp_path):
    orders = []
    for seed, epoch in ((7, 0), (7, 0), (8, 0), (7, 1)):
        sampler = trainer(tmp_path, models(), bandit, seed=seed)._get_train_sampler()
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[1] and sorted(set(orders[0])) == list(range(16))
    assert orders[0] != orders[2] and orders[0] != orders[3]


def test_rewards_of_a_wrong_shape_or_not_finite_are_refused(tmp_path):
    for bad in (lambda batch: torch.zeros(8, 1), lambda batch: batch["completion_mask"] * float("nan")):
        with pytest.raises(ValueError, match="reward_fn"):
            scored(trainer(tmp_path, models(), bad))


@pytest.mark.parametrize(
    "settings",
    [{"num_generations": 4}, {"beta": 0.1}, {"temperature": 0.7}, {"loss_type": "bnpo"}, {"lam": 1.1},
     {"gradient_accumulation_steps": 3, "steps_per_generation": 4},
     {"save_strategy": "steps", "save_steps": 3, "num_iterations": 2}],
)  # fmt: skip
def test_settings_that_would_change_the_method_silently_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match=next(iter(settings)) + "|gradient_accumulation_steps|save_steps"):
        DensePPOConfig(str(tmp_path), per_device_train_batch_size=8, use_cpu=True, bf16=False, **settings)


# --- training


def test_each_model_moves_at_its_own_rate_and_the_reference_never(tmp_path):
    for rates in ((0.0, 1e-2), (1e-2, 0.0)):
        parts = policy, ref, critic = models()
        before = [weights(part) for part in parts]
        run = trainer(tmp_path, parts, bandit, learning_rate=rates[0], critic_learning_rate=rates[1])
        run.train()
        assert [group["lr"] for group in run.optimizer.param_groups] == list(rates)
        after = {name: tensor for name, tensor in weights(policy).items() if not name.startswith("critic.")}
        assert same(after, before[0]) == (rates[0] == 0.0)
        assert same(weights(critic), before[2]) == (rates[1] == 0.0)
        assert same(weights(ref), before[1]) and not any(p.requires_grad for p in ref.parameters())


def test_shared_weights_are_refused(tmp_path):
    policy, _, critic = models()
    with pytest.raises(ValueError, match="share parameters"):
        trainer(tmp_path, (policy, policy, critic), bandit)
    critic.backbone = policy.model
    with pytest.raises(ValueError, match="share parameters"):
        trainer(tmp_path, (policy, models()[1], critic), bandit)


def test_critic_warm_up_leaves_the_policy_alone(tmp_path):
    parts, moved = models(), []
    before = weights(parts[0]), weights(parts[2])

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            after = {name: tensor for name, tensor in weights(parts[0]).items() if not name.startswith("critic.")}
            moved.append((not same(after, before[0]), not same(weights(parts[2]), before[1])))

    trainer(tmp_path, parts, bandit, [Watch()], critic_warmup_steps=2, num_iterations=2, max_steps=5).train()
    assert moved == [(False, True)] * 4 + [(True, True)]


@pytest.mark.parametrize("rounds", [0, 2])
def test_curves_say_when_the_policy_starts_to_learn(tmp_path, rounds):
    made = trainer(tmp_path, models(), bandit, critic_warmup_steps=rounds, max_steps=3)
    made.train()
    assert [row["warm"] for row in made.curves] == [i >= rounds for i in range(3)]


def test_policy_and_critic_gradients_are_clipped_apart(tmp_path):
    """Clipped as one, a large value loss would shrink the policy's step."""
    gradients = Gradients()
    trainer(tmp_path, models(), bandit, [gradients], vf_coef=1e4, max_grad_norm=0.5).train()
    norms = [
        torch.stack([g.norm() for name, g in gradients.found.items() if name.startswith("critic.") is critic]).norm()
        for critic in (False, True)
    ]
    assert norms[1] == pytest.approx(0.5, abs=1e-3) and norms[0] > 0.05


def timeless(curves):
    return [{name: number for name, number in row.items() if not name.startswith("seconds")} for row in curves]


def letters(completions, **unused):
    return [float(len(completion[0]["content"])) for completion in completions]


def run_to_the_end(folder, seed=7, callbacks=(), resume=False, **settings):
    parts = models()
    run = trainer(
        folder, parts, bandit, callbacks, [letters], seed=seed, num_iterations=2, max_steps=8, save_strategy="steps",
        save_steps=2, kl_coef=0.1, **settings,
    )  # fmt: skip
    run.train(resume_from_checkpoint=resume)
    return weights(parts[0]), run


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """Killed in the second epoch (16 prompts, 8 per rollout): order, optimizer, critic and curves must go on."""

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    expected, whole = run_to_the_end(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(tmp_path / "killed", callbacks=[Kill()])
    found, resumed = run_to_the_end(tmp_path / "killed", resume=True)
    assert same(found, expected)
    assert timeless(resumed.curves) == timeless(whole.curves)
    assert [row["rollout"] for row in whole.curves] == [0, 1, 2, 3]
    assert {"proxy_reward", "kl", "length", "truncated", "entropy", "value_loss", "explained_variance", "letters",
            "seconds_generate", "seconds_score", "seconds_update"} <= whole.curves[-1].keys()  # fmt: skip


def test_deepspeeds_checkpoint_of_other_processes_is_refused_by_name(tmp_path):
    """Without DeepSpeed its optimiser states would be left behind, silently; on other processes its error is long."""
    shares = tmp_path / "checkpoint-2" / "global_step2"
    shares.mkdir(parents=True)
    for rank in range(2):
        (shares / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    for resume in (True, str(tmp_path / "checkpoint-2")):
        with pytest.raises(
            ValueError, match="checkpoint-2 holds .* in 2 shares.*there is 1 without.*go on with 2 proc"
        ):
            run_to_the_end(tmp_path, resume=resume)


def test_equal_seeds_give_equal_results(tmp_path):
    (a, run_a), (b, run_b), (c, _) = (run_to_the_end(tmp_path / str(i), seed) for i, seed in enumerate((7, 7, 8)))
    assert same(a, b) and timeless(run_a.curves) == timeless(run_b.curves) and not same(a, c)


def test_the_saved_policy_is_a_plain_causal_lm_and_the_critic_lies_beside_it(tmp_path):
    _, run = run_to_the_end(tmp_path)
    for folder in (tmp_path / "checkpoint-8", tmp_path / "final"):
        if folder.name == "final":
            run.save_model(str(folder))
        assert not any("critic" in key for key in load_file(folder / "model.safetensors"))
        policy, critic = AutoModelForCausalLM.from_pretrained(folder), TokenScorer.from_pretrained(folder / "critic")
        trained = weights(run.model)
        assert all(torch.equal(tensor, trained[name]) for name, tensor in policy.state_dict().items())
        assert all(torch.equal(tensor, trained[f"critic.{name}"]) for name, tensor in critic.state_dict().items())


@pytest.mark.parametrize("kind", ["bandit", "dense"])
def test_it_learns(tmp_path, kind):
    """One point per even token id, paid at the token or at the end: the share of even tokens rises."""

    def reward_fn(batch):
        mask = batch["completion_mask"]
        even = (batch["completion_ids"] % 2 == 0).float() * mask
        return even if kind == "dense" else last(mask) * even.sum(1, keepdim=True)

    run = trainer(tmp_path, models(), reward_fn, max_steps=30, per_device_train_batch_size=16, learning_rate=1e-2)
    run.train()
    share = [row["proxy_reward"] / row["length"] for row in run.curves]
    assert sum(share[-5:]) / 5 > sum(share[:5]) / 5 + 0.15
