"""What would break: a mask that hides what it should not, a twin that differs in more than the mask, lost counts."""

from dataclasses import asdict, replace

import pytest
import torch
from datasets import Dataset, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOConfig, SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from densereward.reward import dense, rewards
from densereward.text.models import TokenScorer, load_causal_lm
from densereward.text.tokens import collate_prompt_completion
from densereward.training import online, rounds
from densereward.training.appo import MaskedPPOTrainer
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer
from densereward.training.preference import TokenisedDPOTrainer
from densereward.training.settings import common
from study import choosing, deciding, identity, plan
from study.methods import ADAPTIVE, METHODS, method
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from study.stages import mask as masking
from study.stages import prompts
from study.stages import rounds as room
from study.stages.scorer import calibration_scores
from test_baselines import TINY
from test_ppo import PROMPTS, TOKENIZER, bandit, models, same, weights

EOS = TOKENIZER.eos_token_id
ROWS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 10, EOS], "rejected_ids": [12, EOS]},
    {"prompt_ids": [20, 21], "chosen_ids": [22, EOS], "rejected_ids": [24, 25, EOS]},
]
KEPT = [[1, 0, 0, 1], [0, 1]]


def parity(batch):
    """A reward per token: 1 for even ids, 0 for odd ones."""
    return (batch["completion_ids"] % 2 == 0).float() * batch["completion_mask"]


def even_share(batch):
    """Of each response, paid at its first token."""
    totals = parity(batch).sum(1) / batch["completion_mask"].sum(1)
    return torch.nn.functional.pad(totals[:, None], (0, batch["completion_mask"].size(1) - 1))


def ones(batch, chosen, *unused):
    """A decider that leaves everything."""
    return masking.Masked(batch["completion_mask"].bool(), batch["completion_mask"], torch.zeros_like(chosen))


ones.preferred = "round"


@pytest.fixture
def answers(monkeypatch):
    """In place of generation: answers of 1 to 6 tokens and EOS by a stream of their own, all of them kept in a list."""
    draw, made = torch.Generator().manual_seed(3), []

    def fake(model, tokenizer, prompts, max_new_tokens):
        lengths = torch.randint(1, 7, (len(prompts),), generator=draw).tolist()
        found = [[*torch.randint(10, 99, (n,), generator=draw).tolist(), EOS] for n in lengths]
        made.extend(found)
        return found

    monkeypatch.setattr(rounds, "sample_answers", fake)
    return made


def made_rounds(reference, pay=even_share, decide=None, size=4, metrics=()):
    return rounds.Rounds(reference.eval(), TOKENIZER, Dataset.from_list(PROMPTS), pay, list(metrics), size, 10, decide)


def learner(kind, folder, decide, pay=even_share, beta=0.5, steps=8):
    """The trainer of `kind` on rounds of four prompts, two minibatches, two epochs: four updates a round."""
    policy, reference, _ = models()
    args = common(folder, policy, 7) | {
        "report_to": "none", "per_device_train_batch_size": 2, "max_steps": steps, "learning_rate": 1e-2,
        "logging_strategy": "no",
    }  # fmt: skip
    sampled = made_rounds(reference, pay, decide)
    prompts = Dataset.from_list(PROMPTS)
    return online.trainer_of(
        kind, policy, reference, TOKENIZER, sampled, args, beta, decide is not None, prompts, minibatches=2, epochs=2
    )


# --- pairs


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=5))
def test_best_and_worst_are_a_loops_and_ties_are_marked(scores):
    answers = [[[10 * value + 1] for value in row] for row in scores]  # equal scores, equal answers
    best, worst, tied = rounds.best_and_worst(torch.tensor(scores).float(), answers)
    for row, b, w, t in zip(scores, best, worst, tied):
        assert b == row.index(max(row)) and w == row.index(min(row)) and t == (max(row) == min(row))


def test_one_answer_scored_twice_with_rounding_between_is_a_tie():
    twins = [[[4, EOS], [4, EOS], [4, EOS]]]
    assert rounds.best_and_worst(torch.tensor([[0.1, 0.1 + 1e-6, 0.1]]), twins)[2] == [True]


def test_a_round_counts_all_that_it_samples_and_measures_the_policys_own(answers):
    policy, reference, _ = models()
    add_fused_lm_head(policy)
    seen = []

    def words(prompts, completions, completion_ids):
        assert completion_ids == answers[:16]
        seen.extend((p[-1]["content"], c[0]["content"]) for p, c in zip(prompts, completions, strict=True))
        return [float(len(c[0]["content"])) for c in completions]

    rows, row = made_rounds(reference, metrics=[words])(policy)
    assert row["responses"] == len(answers) == 4 * 8 and row["tokens"] == sum(map(len, answers))
    own, theirs = answers[:16], answers[16:]  # the policy is asked first
    assert row["length"] == sum(map(len, own)) / 16 and row["pairs"] == len(rows) == 4 - row["tied"]
    assert [text for _, text in seen] == [TOKENIZER.decode(a, skip_special_tokens=True) for a in own]
    assert [prompt for prompt, _ in seen] == [PROMPTS[i]["prompt"][0]["content"] for i in range(4) for _ in range(4)]
    share = [[sum(i % 2 == 0 for i in a) / len(a) for a in part] for part in (own, theirs)]
    kl, each = 0.0, iter(rows)
    for i in range(4):
        group = own[4 * i : 4 * i + 4] + theirs[4 * i : 4 * i + 4]
        scores = share[0][4 * i : 4 * i + 4] + share[1][4 * i : 4 * i + 4]
        pair = next(each)
        assert pair["chosen_ids"] == group[scores.index(max(scores))]
        assert pair["rejected_ids"] == group[scores.index(min(scores))]
        for a in group[:4]:
            ids, n = torch.tensor([pair["prompt_ids"] + a]), len(pair["prompt_ids"])
            logps = [type(m).forward(m, ids).logits[0].log_softmax(1) for m in (policy, reference)]
            kl += sum((logps[0] - logps[1])[n + t - 1, token].item() for t, token in enumerate(a)) / 16
    assert row["kl"] == pytest.approx(kl, abs=1e-4)


def test_a_rounds_curve_is_of_the_policys_answers_alone(monkeypatch):
    """Of three prompts' answers the policy's are short, five of twelve cut off, and two bests are its own; all of the
    reference's are long, cut off, and score otherwise."""
    policy, reference, _ = models()
    add_fused_lm_head(policy)
    own = [[10, EOS], [12, 13], [14, 15, 17, EOS], [11, EOS], [16, 19], [17, EOS], [13, 15], [19, EOS]]
    own += [[12, 14, EOS], [15, EOS], [14, 13], [17, 19]]
    theirs = [[11, 13, 15, 17, 19, 21, 23, 12]] * 4 + [[20, 22, 24, 26, 28, 30, 32, 34]] * 4 + [[13] * 8] * 4
    monkeypatch.setattr(rounds, "sample_answers", lambda model, *unused: own if model is policy else theirs)
    row = made_rounds(reference, size=3)(policy)[1]
    share = [[sum(i % 2 == 0 for i in a) / len(a) for a in part] for part in (own, theirs)]
    scores = [share[0][i : i + 4] + share[1][i : i + 4] for i in (0, 4, 8)]
    assert row["proxy_reward"] == pytest.approx(sum(share[0]) / 12) != pytest.approx(sum(map(sum, scores)) / 24)
    assert row["spread"] == pytest.approx(sum(max(part) - min(part) for part in scores) / 3)
    assert row["truncated"] == 5 / 12 and row["length"] == sum(map(len, own)) / 12
    assert [part.index(max(part)) < 4 for part in scores] == [True, False, True]
    assert row["best_from_policy"] == pytest.approx(2 / 3)


def test_the_policy_can_answer_alone(answers):
    policy, reference, _ = models()
    add_fused_lm_head(policy)
    made = rounds.Rounds(
        reference.eval(), TOKENIZER, Dataset.from_list(PROMPTS), even_share, [], 4, 10, None, own=rounds.ANSWERS
    )
    rows, row = made(policy)
    assert len(answers) == row["responses"] == 32 and row["best_from_policy"] == 1
    assert row["length"] == sum(map(len, answers)) / 32, "the curve is of all of them"
    for i, pair in enumerate(rows):
        assert pair["chosen_ids"] in answers[8 * i : 8 * i + 8] and pair["rejected_ids"] in answers[8 * i : 8 * i + 8]
    with pytest.raises(ValueError, match="own is 0: of 8 answers"):
        rounds.Rounds(reference, TOKENIZER, Dataset.from_list(PROMPTS), even_share, [], 4, 10, None, own=0)


def test_pairs_that_teach_nothing_are_skipped_and_counted(tmp_path, answers):
    trainer = learner("online-dpo", tmp_path, None, pay=lambda batch: torch.zeros_like(parity(batch)))
    before = weights(trainer.model)
    trainer.train()
    assert same(before, weights(trainer.model))
    assert [(row["tied"], row["pairs"], row["updates"], row["loss"]) for row in trainer.curves] == [(4, 0, 0, None)] * 2
    assert trainer.curves[-1]["responses"] == 32, "they were sampled all the same"


# --- a mask of ones is no mask


@pytest.mark.parametrize("kind", ["online-dpo", "rs"])
def test_a_mask_of_ones_leaves_the_twin_to_the_bit(tmp_path, answers, kind, monkeypatch):
    fake, draws = rounds.sample_answers, []

    def replayed(*args):  # the second run gets the first one's answers
        draws.append(fake(*args) if len(draws) < 4 else draws[len(draws) % 4])
        return draws[-1]

    monkeypatch.setattr(rounds, "sample_answers", replayed)
    found = []
    for decide in (None, ones):
        trainer = learner(kind, tmp_path, decide)
        start = weights(trainer.model)
        trainer.train()
        found.append(weights(trainer.model))
        assert not same(start, found[-1])
        assert [row["updates"] for row in trainer.curves] == [4, 4]
    assert trainer.curves[0]["kept_chosen"] == 1.0 and same(*found)


def test_appo_with_a_mask_of_ones_is_ppo_to_the_bit(tmp_path):
    found = []
    for make, more in ((DensePPOTrainer, {}), (MaskedPPOTrainer, {"decide": ones})):
        trainer = ppo(tmp_path, make, **more)
        start = weights(trainer.model)
        trainer.train()
        found.append(weights(trainer.model))
    assert same(*found) and not same(start, found[0])


def ppo(folder, make, parts=None, pay=bandit, steps=2, **more):
    policy, ref, critic = parts or models()
    args = DensePPOConfig(
        str(folder), per_device_train_batch_size=16, max_completion_length=10, max_steps=steps, learning_rate=1e-2,
        critic_learning_rate=1e-2, kl_coef=0.1, use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, seed=7,
    )  # fmt: skip
    return make(
        policy, reward_fn=pay, ref_model=ref, critic=critic, args=args, processing_class=TOKENIZER,
        train_dataset=Dataset.from_list(PROMPTS), **more,
    )  # fmt: skip


@pytest.mark.parametrize("kl_coef", [0.0, 0.7])
def test_rejection_sampling_is_trls_likelihood_and_the_exact_kl(tmp_path, answers, kl_coef):
    trainer = learner("rs", tmp_path, None, beta=kl_coef)
    ours = trainer.compute_loss(trainer.model, trainer.data_collator(ROWS))
    policy, reference, _ = models()
    args = SFTConfig(**common(tmp_path, policy, 0) | {"report_to": "none"}, completion_only_loss=True, max_length=None)
    sequences = [row["prompt_ids"] + row["chosen_ids"] for row in ROWS]
    whole = [[0] * len(row["prompt_ids"]) + [1] * len(row["chosen_ids"]) for row in ROWS]
    data = Dataset.from_dict({"input_ids": sequences, "completion_mask": whole})
    trl = SFTTrainer(model=policy, args=args, train_dataset=data, processing_class=TOKENIZER)
    expected = trl.compute_loss(policy, trl.data_collator([trl.train_dataset[i] for i in range(2)])).item()
    terms = []
    for row, ids in zip(ROWS, sequences):
        p, q = (type(m).forward(m, torch.tensor([ids])).logits[0].log_softmax(1) for m in (policy, reference))
        for t in range(len(row["prompt_ids"]) - 1, len(ids) - 1):
            terms.append(sum(p[t].exp() * (p[t] - q[t])).item())
    assert ours.item() == pytest.approx(expected + kl_coef * sum(terms) / len(terms), abs=1e-5)


def test_a_kept_token_weighs_in_rejection_sampling_what_it_weighs_without_a_mask(tmp_path, answers):
    """Likelihood and KL are sums over the same number, all tokens of the answers: a mask of half of them does not
    double what the other half weighs against its KL."""
    rows = [row | {"chosen_mask": kept, "rejected_mask": []} for row, kept in zip(ROWS, KEPT)]
    found = []
    for masked in (rows, ROWS):
        trainer = learner("rs", tmp_path, ones, beta=0.0)
        found.append(last_hidden_gradient(trainer, trainer.data_collator(masked)))
    for i, (row, kept) in enumerate(zip(ROWS, KEPT)):
        for t, keep in enumerate(kept, len(row["prompt_ids"]) - 1):
            torch.testing.assert_close(found[0][i, t], keep * found[1][i, t], atol=1e-9, rtol=1e-5)
            assert found[1][i, t].any()
    trainer = learner("rs", tmp_path, ones, beta=0.7)
    for counted in (None, torch.tensor(99)):  # the training loop counts kept tokens
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows), num_items_in_batch=counted)
        likelihood = kl = count = 0
        for row, kept in zip(ROWS, KEPT):
            ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
            with torch.no_grad():
                p, q = (type(m).forward(m, ids).logits[0].log_softmax(1) for m in (trainer.model, trainer.reference))
            for t, keep in enumerate(kept, len(row["prompt_ids"])):
                likelihood += keep * p[t - 1, ids[0, t]].item()
                kl += (p[t - 1].exp() * (p[t - 1] - q[t - 1])).sum().item()
                count += 1
        assert loss.item() == pytest.approx((0.7 * kl - likelihood) / count, abs=1e-5)


def test_minibatches_are_drawn_anew_each_epoch_by_the_seed(tmp_path, answers):
    def order(seed):
        trainer = learner("online-dpo", tmp_path, None)
        trainer.args.seed = seed
        trainer.data_collator = list
        trainer.rounds = lambda policy: (list(range(12)), {})
        parts = list(trainer.get_train_dataloader())  # two rounds, two epochs, two minibatches
        assert [len(part) for part in parts] == [6] * 8
        return [parts[i] + parts[i + 1] for i in range(0, 8, 2)]

    first = order(7)
    assert all(sorted(epoch) == list(range(12)) for epoch in first), "an epoch sees every pair once"
    assert list(range(12)) not in first and len(set(map(tuple, first))) == 4, "not shuffled, or but once"
    assert order(7) == first and order(8) != first


def test_online_dpos_loss_is_trls(tmp_path, answers):
    trainer = learner("online-dpo", tmp_path, None)
    policy, reference, _ = models()
    args = DPOConfig(**common(tmp_path, policy, 0) | {"report_to": "none"}, beta=0.5, max_length=None)
    data = Dataset.from_list(ROWS)
    trl = TokenisedDPOTrainer(policy, reference, args=args, train_dataset=data, processing_class=TOKENIZER)
    losses = [t.compute_loss(t.model, t.data_collator(ROWS)) for t in (trainer, trl)]
    assert torch.equal(*losses) and losses[0] > 0


# --- masked tokens teach nothing


def last_hidden_gradient(trainer, batch):
    """Of the last hidden states, [B, L, width]: position t - 1 is what token t is predicted from, and nothing else."""
    seen = []

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        seen.append(output.last_hidden_state)

    hook = trainer.model.model.register_forward_hook(keep)
    trainer.compute_loss(trainer.model, batch).backward()
    hook.remove()
    return seen[0].grad


@pytest.mark.parametrize("kind", ["online-dpo", "rs"])
def test_masked_tokens_get_exactly_no_gradient(tmp_path, answers, kind):
    trainer = learner(kind, tmp_path, ones, beta=0.5 if kind == "online-dpo" else 0.0)
    rows = [
        row | {"chosen_mask": kept, "rejected_mask": [1] * len(row["rejected_ids"])} for row, kept in zip(ROWS, KEPT)
    ]
    found = last_hidden_gradient(trainer, trainer.data_collator(rows))[: len(rows)]  # the chosen sides come first
    for row, kept, gradient in zip(rows, KEPT, found):
        first = len(row["prompt_ids"]) - 1
        for t, keep in enumerate(kept):
            assert gradient[first + t].abs().sum().item() > 0 if keep else not gradient[first + t].any()


def test_a_policy_of_which_every_token_is_masked_stays_and_its_critic_learns(tmp_path):
    def nothing(batch, chosen, *unused):
        none = torch.zeros_like(batch["completion_mask"])
        return masking.Masked(none, none, torch.ones_like(chosen))

    nothing.preferred = "round"
    trainer = ppo(tmp_path, MaskedPPOTrainer, decide=nothing)
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"critic"}
    assert [(row["kept"], row["emptied"]) for row in trainer.curves] == [(0.0, 16)] * 2


def rising(pay, by):
    """`pay`, and at every real token `by` times the number of earlier batches: a policy that improves from round to
    round."""
    rounds_before = iter(range(10**6))

    def paid(batch):
        return pay(batch) + by * next(rounds_before) * batch["completion_mask"]

    return paid


def test_preferred_responses_are_those_above_the_mean_of_their_round_or_of_positive_advantage(tmp_path):
    seen, paid_out, rise = [], [], rising(bandit, 0.5)

    def pay(batch):
        paid_out.append(rise(batch))
        return paid_out[-1]

    def watch(batch, chosen, values, gamma):
        seen.append((batch["rewards"].sum(1), chosen))
        return ones(batch, chosen)

    watch.preferred = "round"
    trainer = ppo(tmp_path, MaskedPPOTrainer, pay=pay, decide=watch)
    trainer.train()
    assert [totals.tolist() for totals, _ in seen] == [paid.sum(1).tolist() for paid in paid_out], "of what was paid"
    for paid, chosen in seen:
        mean = sum(paid.tolist()) / len(paid)
        clear = (paid - mean).abs() > 1e-6
        assert chosen[clear].tolist() == (paid[clear] > mean).tolist() and 0 < chosen.sum() < len(chosen)
    assert [row["preferred"] for row in trainer.curves] == [c.float().mean().item() for _, c in seen]

    watch.preferred, seen[:] = "advantage", []
    trainer = ppo(tmp_path, MaskedPPOTrainer, decide=watch)
    batch = trainer._generate_and_score_completions([trainer.train_dataset[i] for i in range(16)])
    for row, mask, chosen in zip(batch["advantages"], batch["completion_mask"], seen[0][1]):
        assert chosen.item() == (sum(row[mask.bool()].tolist()) > 0)


def test_a_policy_that_improves_keeps_two_sides_and_curves_say_what_is_good_on_each(tmp_path):
    """Eight rounds, each of them paid more than the one before by more than answers differ. Against the mean of all
    rounds every answer would be preferred from the second on, and every token good: the mask would be all ones."""
    seen = []

    class Watched(masking.Decider):
        def __call__(self, batch, chosen, *rest):
            found = super().__call__(batch, chosen, *rest)
            seen.append((batch["completion_mask"], chosen, found.states))
            return found

    decide = Watched(rising(parity, 5.0), {"by": "token", "baseline": "round", "preferred": "round"})
    trainer = ppo(tmp_path, MaskedPPOTrainer, pay=rising(bandit, 20.0), steps=8, decide=decide)
    trainer.train()
    assert len(trainer.curves) == 8
    for row, (mask, chosen, states) in zip(trainer.curves, seen, strict=True):
        assert row["preferred"] == sum(chosen.tolist()) / 16 and 0.2 < row["preferred"] < 0.8
        for name, side in (("good_preferred", chosen), ("good_rejected", ~chosen)):
            good = [
                s == 1
                for i in side.nonzero()[:, 0].tolist()
                for real, s in zip(mask[i].tolist(), states[i].tolist())
                if real
            ]
            assert row[name] == pytest.approx(sum(good) / len(good)) and 0.1 < row[name] < 0.9


def test_curves_say_nothing_of_a_side_that_nobody_is_on(tmp_path):
    def same_for_all(batch):
        return torch.zeros_like(parity(batch))

    trainer = ppo(tmp_path, MaskedPPOTrainer, pay=same_for_all, decide=ones, steps=1)
    trainer.train()
    row = trainer.curves[0]
    assert row["preferred"] == 0.0 and row["good_preferred"] is None and row["good_rejected"] == 1.0


def test_the_values_of_a_td_error_are_the_critics_before_the_update(tmp_path):
    seen = []

    def watch(batch, chosen, values, gamma):
        seen.append((batch, values, gamma))
        return ones(batch, chosen)

    watch.preferred = "round"
    parts = models()
    with torch.no_grad():
        parts[2].head.weight.mul_(20)  # values that differ from returns and from token to token
    trainer = ppo(tmp_path, MaskedPPOTrainer, parts, decide=watch)
    made = trainer._generate_and_score_completions([trainer.train_dataset[i] for i in range(16)])
    ((batch, values, gamma),) = seen
    assert gamma == trainer.args.gamma and (values - made["returns"]).abs().max() > 0.1
    for i, n in enumerate(batch["completion_mask"].sum(1).tolist()):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        ids = torch.cat([prompt, batch["completion_ids"][i, :n]])[None]
        with torch.no_grad():
            alone = trainer.model.critic.token_scores(ids, torch.ones_like(ids))[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(values[i, :n], alone, atol=1e-4, rtol=1e-4)


# --- what decides


def toy_batch():
    rows = [{"prompt_ids": [1, 2], "completion_ids": ids} for ids in ([4, 5, 6], [7], [8, 9, 11, 12])]
    return collate_prompt_completion(rows, TOKENIZER.pad_token_id)


def test_the_baseline_is_the_mean_of_the_rewards_or_fixed_or_the_critics():
    batch, chosen = toy_batch(), torch.tensor([True, False, True])
    decide = masking.Decider(parity, {"by": "token", "baseline": "round"})
    assert decide(batch, chosen).mask.int().tolist() == [[1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 1]]  # b = 4/8
    high = masking.Decider(lambda b: 5 * parity(b), {"by": "token", "baseline": "fixed", "decision": "three-way"})
    high.settings["delta"] = 5.0
    assert high(batch, chosen).emptied.all(), "5 is not above 0 + 5"
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = masking.Decider(parity, {"by": "token", "baseline": "td"})(batch, chosen, values, 0.9).mask
    for b, n in enumerate((3, 1, 4)):
        for t in range(n):
            later = values[b, t + 1].item() if t + 1 < n else 0.0
            error = parity(batch)[b, t].item() + 0.9 * later - values[b, t].item()
            assert bool(found[b, t]) == ((error > 0) == chosen[b].item())


def test_a_running_mean_sees_every_batch_and_that_of_a_round_its_own():
    batch, three = toy_batch(), torch.ones(3, dtype=torch.bool)
    odd = batch | {"completion_ids": batch["completion_ids"] * 2 + 1}  # all rewards 0
    low = masking.Decider(lambda b: parity(b) - 9 * (b is odd), {"by": "token", "baseline": "round"})
    low(odd, three)
    assert low(batch, three).states.tolist() == [[1, -1, 1, 0], [-1, 0, 0, 0], [1, -1, -1, 1]]
    decide = masking.Decider(parity, {"by": "token", "baseline": "running mean"})
    assert decide(odd, three).emptied.all()  # nothing is above b = 0
    assert decide.mean.total == 0 and decide.mean.count == 8
    decide(batch, three)
    assert decide.mean.total == 4 and decide.mean.count == 16


@pytest.mark.parametrize("baseline, above", [("round", 0.0), ("running mean", 0.775), ("fixed", 1.55)])
def test_as_rewards_rise_the_mean_of_a_round_alone_keeps_half_of_the_tokens_good(baseline, above):
    """32 rounds of normal rewards whose mean rises by .05 deviations a round. The last one's mean lies `above` b: by
    nothing, by half of the rise, by all of it. Good are half of its tokens, 78%, 94%."""
    drawn = torch.Generator().manual_seed(0)
    batch = {"completion_mask": torch.ones(64, 64), "completion_ids": torch.zeros(64, 64)}
    paid = rising(lambda b: torch.randn(64, 64, generator=drawn), 0.05)
    decide, chosen = masking.Decider(paid, {"by": "token", "baseline": baseline}), torch.arange(64) < 32
    share = [(decide(batch, chosen).states == 1).float().mean().item() for _ in range(32)]
    last = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(above)).item()
    assert share[0] == pytest.approx(0.5, abs=0.02) and share[-1] == pytest.approx(last, abs=0.02)


def test_a_signed_mask_is_refused_where_minus_one_would_train_as_one():
    assert deciding.row_of(method("appo", mask=METHODS["appo"].mask | {"signed": True})).name == "token"
    for name in ("adpo", "ars", "dpo-masked"):
        with pytest.raises(ValueError, match="it is signed, which likelihoods and losses on pairs cannot take"):
            deciding.row_of(method(name, mask=METHODS[name].mask | {"signed": True}))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"mask": {"by": "bandit"}},
            "'bandit' has no rewards of parts; take 'token', 'segment', 'tlcr' or 'oracle-dense'",
        ),
        ({"mask": {"by": "oracle-sequence"}}, "'oracle-sequence' has no rewards of parts"),
        ({"mask": {"by": "dpo"}}, "'dpo' has no rewards of parts"),
        (
            {"mask": {"by": "token", "baseline": "mode", "preferred": "round"}},
            "baseline is 'mode'; with trainer 'ppo' give 'round', 'running mean', 'fixed', 'td'",
        ),
        (
            {"mask": {"by": "token", "baseline": "round", "preferred": "group"}},
            "preferred is 'group'; with trainer 'ppo' give 'round', 'advantage'",
        ),
        ({"mask": {"by": "token"}}, "baseline is None; with trainer 'ppo' give"),
        ({"mask": {"by": "token", "baseline": "round"}}, "preferred is None; with trainer 'ppo' give"),
        (
            {"mask": {"by": "token", "baseline": "td", "preferred": "round"}},
            "a TD error takes the critic of the token rewards that decide",
        ),
        ({"trainer": "rs"}, "preferred is 'round'; with trainer 'rs' give nothing"),
        ({"trainer": "grpo"}, "preferred is 'round'; with trainer 'grpo' give 'group'"),
        ({"trainer": "dpo"}, "baseline is 'round'; with trainer 'dpo' give nothing, 'fixed'"),
    ],
)
def test_masks_that_cannot_be_are_refused_before_anything_is_trained(changes, message):
    with pytest.raises(ValueError, match=f"mask of method 'appo': .*{message}"):
        deciding.row_of(method("appo", **changes))


def test_a_td_error_has_rewards_and_values_on_one_scale():
    """The critic learns what the row is paid; rewards on another scale would drown its values, or drown in them. Other
    masks are decided in deviations of token scores."""
    row = METHODS["appo-td"]
    for scale in ("totals", "none"):
        assert deciding.row_of(replace(row, scale=scale)).scale == scale
        assert deciding.row_of(replace(METHODS["appo"], scale=scale)).scale == "none"
    with pytest.raises(ValueError, match="a TD error takes the critic of the token rewards that decide"):
        deciding.row_of(replace(row, normaliser={"kind": "none"}))


def test_answers_to_a_prompt_must_fit_a_rollout_batch(tmp_path):
    with pytest.raises(ValueError, match="rollouts is 12: make it a multiple of 8"):
        room.train(Run(profile("smoke", rollouts=12), root=tmp_path).of("adpo"))


# --- in the study


def test_a_masked_run_waits_for_both_scorers_once_each():
    run = Run(profile("cpu", heldout_proxy=False), 1)
    tasks = plan.plan([run.of(name) for name in ("appo", "appo-dense", "dpo-masked", "bandit", "token")])
    scorers = {name for name, task in tasks.items() if task.kind == "scorer"}
    assert len(scorers) == 2 and set(tasks["appo, seed 1"].needs) == scorers
    by_token = tasks["token, seed 1"].needs
    assert tasks["appo-dense, seed 1"].needs == tasks["dpo-masked, seed 1"].needs == by_token and len(by_token) == 1
    assert "token" in {tasks[name].method for name in scorers}, "the mask's scorer is not the one that `appo` prepares"


def test_a_row_recorded_before_masks_is_the_same_method_and_a_mask_another():
    new = asdict(METHODS["bandit"])
    old = {name: x for name, x in new.items() if name != "mask"}
    assert identity.same_method(old, new) and not identity.same_method(old, asdict(METHODS["appo"]))


def test_a_record_of_a_mask_by_all_rounds_is_of_no_row_by_the_round():
    """The masks of rows as records of older code have them, where what is now said was not yet, or meant another."""
    old = {
        "appo": {"by": "token"},
        "adpo": {"by": "token"},
        "ars": {"by": "token"},
        "appo-fixed": {"by": "token", "baseline": "fixed"},
        "appo-td": {"by": "token", "baseline": "td"},
        "appo-advantage": {"by": "token", "preferred": "advantage"},
        "appo-oracle": {"by": "oracle-dense"},
        "adpo-three-way": {"by": "token", "decision": "three-way", "delta": 0.5},
        "ars-schmitt": {"by": "token", "decision": "schmitt", "delta": 0.5},
        "grpo-masked": {"by": "token"},
    }
    for name, mask in old.items():
        params = identity.parameters(Run(profile("cpu"), 0).of(METHODS[name]))
        assert identity.as_listed(params)
        recorded = params | {"method": params["method"] | {"mask": mask}}
        assert not identity.as_listed(recorded) and not identity.same(params, recorded), name
    for name, row in METHODS.items():  # and no row leaves it to a default
        if row.mask and row.trainer not in deciding.OFFLINE:
            assert {"by", "baseline"} <= row.mask.keys() and deciding.row_of(row), name
            assert ("preferred" in row.mask) == (row.trainer in deciding.PREFERRED), name


def test_twins_differ_in_the_mask_alone_and_all_get_as_many_trials():
    for masked, twin in {"appo": "bandit", "adpo": "online-dpo", "ars": "rs", "dpo-masked": "dpo"}.items():
        named = {name: getattr(METHODS[twin], name) for name in ("name", "label", "source", "mask")}
        assert replace(METHODS[masked], **named) == METHODS[twin] and METHODS[masked].mask and not named["mask"]
    assert {len(choosing.settings(grid)) for grid in choosing.POLICIES.values()} == {32}
    assert {METHODS[name].trainer for name in METHODS} - {"none"} <= choosing.POLICIES.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **TINY), 0, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def records(run):
    names = ("bandit", "dpo", *ADAPTIVE, "dpo-masked", "appo-td", "adpo-per-segment", "appo-oracle", "ars-oracle")
    return {name: recorded(run.of(METHODS[name])) for name in names}


def test_every_method_samples_and_updates_alike_and_says_so(records):
    for name, record in records.items():
        used, curves = record["used"], record.get("curves", [])
        assert used["responses"] == (0 if name.startswith("dpo") else 16) and used["preference_labels"] == 32
        if METHODS[name].trainer in room.BETA:
            assert used["tokens"] == sum(row["tokens"] for row in curves) > 0
            assert [row["pairs"] + row["tied"] for row in curves] == [1, 1]  # 8 answers are one prompt
            assert all(row["updates"] == 2 * row["pairs"] for row in curves)  # one minibatch of it, two epochs
            assert record["gate"] in ("passed", "failed") and "credit" not in record  # no advantages


def test_records_hold_the_curves_of_the_book_and_what_masks_kept(records):
    wanted = {"rollout", "step", "proxy_reward", "true_return", "kl", "length", "repetition", "fact_accuracy"}
    wanted |= {"truncated", "seconds_generate", "seconds_score", "seconds_update"}
    for name in (*ADAPTIVE, "appo-td", "adpo-per-segment"):
        masks = (
            {"kept", "emptied", "preferred"} if METHODS[name].trainer == "ppo" else {"kept_chosen", "emptied_rejected"}
        ) | {"good_preferred", "good_rejected"}
        for row in records[name]["curves"]:
            assert wanted <= row.keys() and (masks <= row.keys()) == bool(METHODS[name].mask)
        assert records[name]["final"]["length"] > 0
    kept = records["dpo-masked"]["mask"]
    assert 0 < kept["chosen"]["kept"] < kept["chosen"]["tokens"] and kept["rejected"]["samples"] == 32
    assert kept["chosen"]["good"] == kept["chosen"]["kept"]
    assert kept["rejected"]["good"] == kept["rejected"]["tokens"] - kept["rejected"]["kept"]
    assert records["dpo-masked"]["preference_curve"][-1]["loss"] != records["dpo"]["preference_curve"][-1]["loss"]
    assert records["appo"]["stage_seconds"]["mask"] > 0


def test_a_method_and_its_twin_start_from_the_same_answers(records):
    for masked, twin in {"appo": "bandit", "adpo": "online-dpo", "ars": "rs"}.items():
        first = [records[name]["curves"][0] for name in (masked, twin)]
        assert len({(row["true_return"], row["length"], row["proxy_reward"]) for row in first}) == 1


def test_masks_of_pairs_are_decided_by_the_token_models_normalised_scores(run, records, tmp_path):
    """dpo-masked against each response on its own: scorer, normaliser at its location, mean of all as the baseline."""
    run, row = run.of("dpo-masked"), METHODS["token"]
    tokenizer = load_causal_lm(run.sft)[1]
    decide = masking.decider(run, tokenizer, tmp_path)
    pairs, counts = masking.mask_dataset(load_from_disk(run.preferences.path / "preference"), decide, tokenizer, 0)
    net = TokenScorer.from_pretrained(run.mask.scorer, dtype=torch.float32)
    scores, lengths = calibration_scores(run.of(row))
    fitted = rewards.fit_normaliser(scores=scores, segment_mask=lengths > 0, **row.normaliser)
    pay = dense.reward_function(row, net, fitted, tokenizer)
    values, masks, sides = [], [], []
    for pair in pairs:
        for side in ("chosen", "rejected"):
            batch = collate_prompt_completion([pair], tokenizer.pad_token_id, f"{side}_completion_ids")
            values += pay(batch)[0].tolist()
            masks += pair[f"{side}_mask"]
            sides += [side == "chosen"] * len(pair[f"{side}_mask"])
    mean = sum(values) / len(values)
    assert counts["baseline"] == pytest.approx(mean, abs=1e-5)
    wrong = [m != ((v > mean) == s) for v, m, s in zip(values, masks, sides, strict=True) if abs(v - mean) > 1e-4]
    assert len(wrong) > 0.9 * len(values) and not any(wrong)


def test_prompts_and_steps_are_the_profiles(run):
    p = replace(run.profile, rounds=5, rollouts=64)
    assert p.rollouts // rounds.ANSWERS * p.rounds == 40 and prompts.sizes(p)["max_steps"] == 5 * 2 * 2
