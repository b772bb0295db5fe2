"""What would break: a comparison with baselines that are not what they are called, or sampled more than they say."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from densereward.reward import dense, implicit, shaping
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.text.sampling import Decoding
from densereward.text.tokens import pad_batch
from densereward.training import figa, group, gtpo
from densereward.training.remax import ReMaxConfig, to_go
from study import effort, identity, plan
from study.cache import Artifact, save_json
from study.measures import signals
from study.methods import BASELINES, METHODS, method
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from study.stages import prompts, reward

TOKENIZER = build_tokenizer(["the cat sat on the mat", "a dog and a cat", "on and on and on"], 280)
TEXTS = [word * n for word in ("cat ", "dog ", "mat ", "on ") for n in range(1, 5)]
PROMPTS = [{"prompt": [{"role": "user", "content": text}]} for text in TEXTS]
WITHOUT_CRITIC = ("rloo", "grpo", "remax")
TINY = {
    "committed_models": None, "width": 32, "layers": 1, "vocab_size": 400, "sft_rows": 64, "pairs": 32,
    "heldout_pairs": 24, "rm_batch": 8, "rounds": 2, "rollouts": 8, "eval_prompts": 24, "credit_responses": 4,
    "credit_samples": 2, "max_completion_length": 24,
}  # fmt: skip


def load(folder, noise: float = 0.0):
    """The saved policy, away from the reference by some noise."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn_like(p))
    return model


def even(completion_ids, **unused) -> list[float]:
    """The share of even token ids."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def common(out, **changes) -> dict:
    return {
        "output_dir": str(out), "per_device_train_batch_size": 16, "max_completion_length": 10, "max_steps": 1,
        "learning_rate": 1e-2, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "disable_tqdm": True, "seed": 7, "logging_strategy": "no", "save_strategy": "no", **changes,
    }  # fmt: skip


def trainer(kind, out, model, reward=even, metrics=(), kl_coef=0.05, callbacks=(), **changes):
    generations = {} if kind == "remax" else {"generations": 4}
    return group.trainer_of(
        kind,
        model,
        reward,
        list(metrics),
        kl_coef,
        common(out, **changes),
        **generations,
        train_dataset=Dataset.from_list(PROMPTS),
        processing_class=TOKENIZER,
        callbacks=list(callbacks),
    )


def weights(model):
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def slow_logps(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of one answer's tokens, by a plain forward pass without padding: [T]."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


# --- trainers without a critic


@pytest.mark.parametrize("kind, steps", [("rloo", 30), ("grpo", 30), ("gtpo", 30), ("remax", 60)])
def test_it_learns(tmp_path, folder, kind, steps):
    run = trainer(kind, tmp_path, load(folder), max_steps=steps)
    run.train()
    share = [row["even"] for row in run.curves]
    assert sum(share[-5:]) / 5 > sum(share[:5]) / 5 + 0.15


@pytest.mark.parametrize("kind, config, plain", [("rloo", RLOOConfig, RLOOTrainer), ("grpo", GRPOConfig, GRPOTrainer)])
def test_watching_trls_trainers_changes_nothing_that_they_learn(tmp_path, folder, kind, config, plain):
    """Micro-batches of like length and counted rollouts leave the weights of TRL's own trainer, up to rounding."""
    shape = {
        "per_device_train_batch_size": 4, "steps_per_generation": 4, "gradient_accumulation_steps": 2,
        "num_iterations": 2, "max_steps": 8, "optim": "sgd", "learning_rate": 0.3,
    }  # fmt: skip

    def length(completion_ids, **unused):
        return [float(len(ids)) for ids in completion_ids]

    watched = trainer(kind, tmp_path / "a", load(folder), metrics=[length], **shape)
    watched.train()
    bare = type(plain.__name__, (Decoding, plain), {})(  # the same samples, and nothing else of ours
        load(folder),
        reward_funcs=[even],
        args=config(**common(tmp_path / "b", **shape), num_generations=4, beta=0.05, lr_scheduler_type="constant"),
        train_dataset=Dataset.from_list(PROMPTS),
        processing_class=TOKENIZER,
    )
    bare.train()
    start, ours, theirs = weights(load(folder)), weights(watched.model), weights(bare.model)
    moved = max((theirs[name] - start[name]).abs().max() for name in start)
    assert moved > 1e-3 and max((ours[name] - theirs[name]).abs().max() for name in start) < 1e-2 * moved
    assert all(row["length"] == pytest.approx(row["tokens"] / row["responses"]) for row in watched.curves)


class Gradient(TrainerCallback):
    """Keeps every parameter's gradient at the first update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.found = {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}])
def test_remaxs_first_gradient_is_that_of_reinforce_with_the_greedy_answer_as_baseline(tmp_path, folder, changes):
    """- mean over tokens of (score - score of the greedy answer - KL from here on) x gradient of log p. Some prompts
    are worth more than others, whatever the answer: a baseline that is not of the prompt itself would show."""
    seen, gradient, kl_coef = [], Gradient(), 0.3

    def score(prompt, ids) -> float:
        return sum(i % 7 for i in ids) / 10 + len(prompt[-1]["content"]) / 4

    def reward(prompts, completion_ids, **unused):
        seen.append((prompts, [list(ids) for ids in completion_ids]))
        return [score(prompt, ids) for prompt, ids in zip(prompts, completion_ids, strict=True)]

    run = trainer("remax", tmp_path, load(folder, 0.05), reward, (), kl_coef, [gradient], max_grad_norm=0.0, **changes)
    run.train()
    (prompts, answers), (again, greedy) = seen
    baselines = list(map(score, prompts, greedy))
    assert prompts == again and answers != greedy and min(baselines) > 0.1 and max(baselines) > min(baselines) + 1
    model, reference = load(folder, 0.05), load(folder)
    total, tokens = 0.0, sum(map(len, answers))
    for prompt, answer, best in zip(prompts, answers, greedy):
        ids = TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        expected = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=10, pad_token_id=TOKENIZER.pad_token_id
        )[0, len(ids) :].tolist()
        assert best == expected
        logps = slow_logps(model, ids, answer)
        kl = (logps - slow_logps(reference, ids, answer)).detach()
        gain = score(prompt, answer) - score(prompt, best)
        for t in range(len(answer)):
            total = total - (gain - kl_coef * kl[t:].sum()) * logps[t]
    (total / tokens).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradient.found[name], p.grad, atol=2e-5, rtol=1e-3)
    row = run.curves[0]
    assert row["greedy_reward"] == pytest.approx(sum(baselines) / 16)
    assert (row["responses"], row["tokens"]) == (32, tokens + sum(map(len, greedy)))


def test_sums_to_go():
    assert to_go(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[7.0, 6.0, 4.0]]


@pytest.mark.parametrize("kind", WITHOUT_CRITIC)
@pytest.mark.parametrize("shape", [{}, {"per_device_train_batch_size": 8, "steps_per_generation": 2}])
def test_curves_say_how_far_the_policy_is_from_its_reference(tmp_path, folder, kind, shape):
    """Also where a rollout batch makes a single update, for which TRL makes no pass of the policy."""
    seen = []

    def reward(prompts, completion_ids, **unused):
        seen.append((prompts, completion_ids))
        return even(completion_ids)

    run = trainer(kind, tmp_path, load(folder, 0.05), reward, **shape)
    run.train()
    prompts, answers = seen[0]
    both = load(folder, 0.05), load(folder)
    kl = 0.0
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers):
            ids = TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            ours, theirs = (slow_logps(model, ids, answer).sum().item() for model in both)
            kl += (ours - theirs) / len(answers)
    assert abs(kl) > 1e-3 and run.curves[0]["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
    assert {"reward", "length", "truncated", "entropy", "seconds_generate", "seconds_score", "seconds_update"} <= set(
        run.curves[0]
    )


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="decodes greedily"):
        ReMaxConfig(**common(tmp_path), use_vllm=True)
    with pytest.raises(ValueError, match="divisible by num_generations"):
        trainer("rloo", tmp_path, None, per_device_train_batch_size=6)


# --- FIGA

ROWS = [
    {"prompt_ids": [5, 6], "completion_ids": [7, 8, 9], "labels": [0.0, 0.5, 1.0]},
    {"prompt_ids": [5], "completion_ids": [7, 8, 9, 10, 11], "labels": [1.0, 1.0, 0.5, 0.0, 0.0]},
]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_figas_loss_is_a_weighted_mean_over_tokens_that_count(data):
    rows = data.draw(
        st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6), min_size=1, max_size=4)
    )
    alpha, beta, gamma = (data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for _ in range(3))
    window = data.draw(st.sampled_from([None, (0.6, 1.0), (0.0, 0.8)]))
    made = [{"prompt_ids": [5], "completion_ids": [7] * len(row), "labels": row} for row in rows]
    batch = figa.collate(made, 0, alpha, beta, gamma)
    logps = -1.5 * torch.rand(batch["weights"].shape, generator=torch.Generator().manual_seed(len(rows)))
    total, count = 0.0, 0
    for b, row in enumerate(rows):
        for t, label in enumerate(row):
            weight = {0.0: -beta, 0.5: gamma, 1.0: alpha}[label]
            loss = -logps[b, t].item()
            if weight < 0 and window and not window[0] <= loss <= window[1]:
                weight = 0
            total, count = total + weight * loss, count + (weight != 0)
    found = figa.weighted_loss(logps, batch["weights"], window).item()
    assert found == pytest.approx(total / max(count, 1), abs=1e-5)


def test_figa_learns_what_was_brought_in_and_unlearns_what_was_taken_out(tmp_path, folder):
    model, p = load(folder), profile("smoke", rm_batch=4, dpo_learning_rate=3e-3)
    before = [slow_logps(model, row["prompt_ids"], row["completion_ids"]).detach() for row in ROWS]
    curve = figa.train_figa(
        model, TOKENIZER, Dataset.from_list(ROWS * 64), tmp_path, 0, 2 * p.rm_batch, p.dpo_learning_rate
    )
    after = [slow_logps(model, row["prompt_ids"], row["completion_ids"]).detach() for row in ROWS]
    for row, old, new in zip(ROWS, before, after):
        labels = torch.tensor(row["labels"])
        assert (new > old)[labels == 1].all() and (new < old)[labels == 0].all()
    assert curve[-1]["positive"] > curve[0]["positive"] and curve[-1]["negative"] < curve[0]["negative"]
    assert curve[-1]["responses"] == 128


def test_the_window_bounds_what_is_unlearnt(tmp_path, folder):
    """Without it the loss of unwanted tokens grows for as long as one trains."""
    p, lost = profile("smoke", rm_batch=4, dpo_learning_rate=1e-2), []
    row = {"prompt_ids": [5], "completion_ids": [7, 8], "labels": [1.0, 0.0]}
    for window in (None, (0.6, 8.0)):
        model = load(folder)
        figa.train_figa(
            model,
            TOKENIZER,
            Dataset.from_list([row] * 400),
            tmp_path,
            0,
            2 * p.rm_batch,
            p.dpo_learning_rate,
            window=window,
        )
        lost.append(-slow_logps(model, [5], [7, 8])[1].item())
    assert lost[0] > 15 > lost[1] > 6


# --- RTO and ABC


def batch_of(lengths=((3, 4), (1, 6), (5, 1)), seed=0) -> tuple[dict, list]:
    """A padded batch of random prompts and completions, and the same as lists."""
    g = torch.Generator().manual_seed(seed)
    rows = [[torch.randint(5, 250, (n,), generator=g).tolist() for n in pair] for pair in lengths]
    (prompt_ids, prompt_mask) = pad_batch([p for p, _ in rows], TOKENIZER.pad_token_id, "left")
    (completion_ids, completion_mask) = pad_batch([c for _, c in rows], TOKENIZER.pad_token_id)
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    return dict(zip(names, (prompt_ids, prompt_mask, completion_ids, completion_mask))), rows


def at_end(batch) -> torch.Tensor:
    """1, 2, 3, ... at each response's last token."""
    mask = batch["completion_mask"]
    last = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True))
    return last * torch.arange(1.0, len(mask) + 1)[:, None]


def test_rtos_rewards_sum_to_the_score_and_the_log_ratio_of_the_dpo_policy(folder):
    dpo, reference = load(folder, 0.05), load(folder)
    batch, rows = batch_of()
    with torch.no_grad():
        ref = [slow_logps(reference, *row) for row in rows]
        ours = [slow_logps(dpo, *row) for row in rows]
    batch["ref_logps"] = torch.nn.utils.rnn.pad_sequence(ref, batch_first=True, padding_value=9.0)
    paid = shaping.by_log_ratios(at_end, dpo, beta=0.4)(batch)
    for b, (_, answer) in enumerate(rows):
        expected = 0.4 * (ours[b] - ref[b])
        expected[-1] += b + 1
        torch.testing.assert_close(paid[b, : len(answer)], expected, atol=1e-5, rtol=1e-4)
        assert (paid[b, len(answer) :] == 0).all()
        ratio = (ours[b] - ref[b]).sum().item()
        assert paid[b].sum().item() == pytest.approx(b + 1 + 0.4 * ratio, abs=1e-4) and abs(ratio) > 1e-3


def test_a_dpo_policy_is_a_scorer_of_tokens(folder):
    """Whatever the padding: a row's scores are those that it has alone."""
    dpo, reference = load(folder, 0.05), load(folder)
    batch, rows = batch_of()
    scorer = implicit.LogRatioScorer(dpo, reference).eval()
    found = dense.token_scores(scorer, batch)
    with torch.no_grad():
        for b, (prompt, answer) in enumerate(rows):
            expected = slow_logps(dpo, prompt, answer) - slow_logps(reference, prompt, answer)
            torch.testing.assert_close(found[b, : len(answer)], expected, atol=1e-5, rtol=1e-4)
            assert (found[b, len(answer) :] == 0).all()
        alone = scorer.token_scores(torch.tensor([rows[0][0] + rows[0][1]]))
    assert alone[0, 0] == 0
    torch.testing.assert_close(alone[:, len(rows[0][0]) :], found[:1, : len(rows[0][1])], atol=1e-5, rtol=1e-4)
    unmoved = implicit.LogRatioScorer(reference, load(folder)).eval()
    assert dense.token_scores(unmoved, batch).abs().max() < 1e-5


def test_abc_spreads_the_score_along_the_attention_of_the_last_token():
    torch.manual_seed(0)
    scorer = scorer_from(tiny_llama(TOKENIZER, 32, 2))
    batch, rows = batch_of()
    paid = shaping.by_attention(at_end, scorer, beta=0.8)(batch)
    shares = shaping.attention_shares(scorer, batch)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    torch.testing.assert_close(paid.sum(1), torch.tensor([1.0, 2.0, 3.0]))
    assert ((shares > 0) == batch["completion_mask"].bool()).all() and shares[0, 0] != shares[0, 1]
    for b, (prompt, answer) in enumerate(rows):  # one response at a time, nothing padded
        maps = scorer.backbone(torch.tensor([prompt + answer]), output_attentions=True).attentions[-1][0]
        looks = [sum(head[-1, len(prompt) + t].item() for head in maps) / len(maps) for t in range(len(answer))]
        for t, look in enumerate(looks):
            share = look / sum(looks)
            assert shares[b, t].item() == pytest.approx(share, abs=1e-5)
            end = (b + 1) * (t + 1 == len(answer))
            assert paid[b, t].item() == pytest.approx(0.8 * share * (b + 1) + 0.2 * end, abs=1e-4)


def test_attention_of_more_responses_than_are_read_at_once_is_that_of_each(monkeypatch):
    torch.manual_seed(0)
    scorer = scorer_from(tiny_llama(TOKENIZER, 32, 2))
    batch, _ = batch_of([(n, 9 - n) for n in range(1, 9)])
    scorer.backbone.set_attn_implementation("eager")
    whole = shaping.attention_shares(scorer, batch)
    assert whole.shape == batch["completion_ids"].shape
    monkeypatch.setattr(shaping, "ROWS", 3)
    torch.testing.assert_close(shaping.attention_shares(scorer, batch), whole)


def test_a_shaping_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="beta is 1.5"):
        shaping.by_attention(at_end, None, 1.5)
    for shape in ({"kind": "magic"}, {"kind": "attention", "beta": 0.5}):
        with pytest.raises(ValueError, match=f"shaping '{shape['kind']}' of method 'bandit'"):
            reward.shaped(Run(profile("smoke")).of(method("bandit", shaping=shape)), at_end, None)


# --- GTPO


def test_entropies_move_what_is_paid_among_the_answers_of_a_side_that_reach_a_position():
    """Against a loop; two groups of four, of answers of one to six tokens, some sides with one answer or none."""
    draw = torch.Generator().manual_seed(0)
    mask = (torch.arange(6) < torch.tensor([6, 4, 1, 5, 3, 6, 2, 2])[:, None]).long()
    entropy = torch.rand(8, 6, generator=draw) * mask
    entropy[0, 1] = 0.0  # a token without a choice
    good = torch.tensor([True, True, True, False, False, False, False, False])
    found = gtpo.entropy_weighted(good, entropy, mask, 4, share=0.1)
    for i in range(8):
        for t in range(6):
            group = [k for k in range(i - i % 4, i - i % 4 + 4) if mask[k, t] and good[k] == good[i]]
            weight = {k: max(entropy[k, t].item(), gtpo.FLOOR) ** (1 if good[i] else -1) for k in group}
            paid = 1 + 0.1 * weight[i] / sum(weight.values()) * len(group) if i in group else 0.0
            assert found[i, t].item() == pytest.approx(paid if good[i] else -paid, rel=1e-5)
    assert torch.allclose(found[4:].sum(0), -1.1 * mask[4:].sum(0)), "an outcome is moved, not made"


def test_without_entropies_advantages_are_grpos_of_right_and_wrong(tmp_path, folder):
    good, mask = torch.tensor([True, False, False, False]), torch.ones(4, 3)
    plain = gtpo.gtpo_advantages(good, torch.full((4, 3), 0.7), mask, 4)
    outcome = torch.tensor([1.0, -1.0, -1.0, -1.0]).expand(3, 4).T
    assert torch.allclose(plain, (outcome - outcome.mean()) / outcome.std(), atol=1e-3)


def test_an_answer_is_right_above_its_groups_mean_and_ties_teach_nothing(tmp_path, folder):
    seen = []
    run = trainer("gtpo", tmp_path, load(folder), max_steps=2)
    plain = run._generate_and_score_completions

    def kept(inputs):
        seen.append(plain(inputs))
        return seen[-1]

    run._generate_and_score_completions = kept
    run.train()
    batch = seen[0]
    mask, advantages = batch["completion_mask"].bool(), batch["advantages"]
    share = torch.tensor([[x % 2 == 0 for x in row] for row in batch["completion_ids"].tolist()]) & mask
    score = (share.sum(1) / mask.sum(1)).view(-1, 4)
    right = (score > score.mean(1, keepdim=True)).flatten()
    tied = (score == score[:, :1]).all(1).repeat_interleave(4)
    assert advantages.shape == mask.shape and not advantages[~mask].any() and not advantages[tied].any()
    for row in range(len(advantages)):
        if not tied[row]:
            assert (advantages[row][mask[row]] > 0).all() == right[row]


# --- in the study


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A record of every baseline and of PPO on the same scores, of one tiny run."""
    run = Run(profile("smoke", **TINY), 0, root=tmp_path_factory.mktemp("runs"))
    return {name: recorded(run.of(METHODS[name])) for name in ("bandit", "dpo", *BASELINES)}


def test_every_method_samples_alike_and_records_say_what_it_used(records):
    for name, record in records.items():
        used, rounds = record["used"], record.get("curves", [])
        sampled = {"dpo": 0, "figa": 0, "figa-window": 0, "remax": 32}.get(name, 16)
        assert used["responses"] == sampled and used["preference_labels"] == 32
        assert used["revisions"] == (32 if name.startswith("figa") else 0)
        assert len(rounds) == (2 if sampled else 0)
        of_answers = sum(row["length"] for row in rounds) * 8
        assert used["tokens"] >= round(of_answers) and (used["tokens"] > of_answers + 1) == (name == "remax")
        assert record["provenance"]["tokens"] == used["tokens"]
    assert records["rto"]["stage_seconds"]["dpo"] > 0 and records["figa"]["stage_seconds"]["revisions"] > 0


def test_the_books_curves_take_them(records):
    wanted = {
        "rollout",
        "step",
        "proxy_reward",
        "true_return",
        "kl",
        "length",
        "repetition",
        "fact_accuracy",
        "entropy",
    }
    wanted |= {"truncated", "seconds_generate", "seconds_score", "seconds_update"}
    for name in ("rloo", "grpo", "remax", "rto", "abc"):
        assert all(wanted <= row.keys() for row in records[name]["curves"]), name
        assert [row["rollout"] for row in records[name]["curves"]] == [0, 1]
        assert records[name]["gate"] in ("passed", "failed") and records[name]["final"]["length"] > 0
    with_advantages = {name for name in records if METHODS[name].trainer in signals.TRAINERS}
    assert {name for name in records if "credit" in records[name]} == with_advantages >= {"rloo", "remax", "rto"}
    for name in ("figa", "figa-window"):
        assert {"responses", "loss", "positive", "negative"} == records[name]["revision_curve"][-1].keys()


def test_first_rollouts_are_ppos_and_abc_keeps_their_totals(records):
    first = {name: records[name]["curves"][0] for name in ("bandit", "remax", "rto", "abc")}
    assert len({(row["true_return"], row["length"]) for row in first.values()}) == 1
    for name in ("remax", "abc"):  # the same scores, z-scored alike
        assert first[name]["proxy_reward"] == pytest.approx(first["bandit"]["proxy_reward"], abs=1e-4)
    assert first["rto"]["proxy_reward"] != pytest.approx(first["bandit"]["proxy_reward"], abs=1e-4)


def test_uncounted_rounds_stand_for_a_rollout_batch_each():
    run = SimpleNamespace(row=METHODS["token"], profile=profile("smoke", rollouts=4), metrics={"pairs": 7}, mask=None)
    curves = [{"length": 10.0}, {"length": 20.5, "responses": 8, "tokens": 164}]
    assert effort.used(run, curves) == {
        "preference_labels": 7, "revisions": 0, "responses": 12, "tokens": 204,
    }  # fmt: skip


def test_revisions_that_a_mask_rests_on_are_counted(tmp_path):
    save_json(tmp_path / "report.json", {"preference": {"labels": {"read": 9}}})
    decides = SimpleNamespace(row=METHODS["tlcr"], revisions=Artifact(tmp_path, {}))
    run = SimpleNamespace(row=METHODS["adpo-tlcr"], profile=profile("smoke"), metrics={"pairs": 7}, mask=decides)
    used = effort.used(run, [])
    assert (used["preference_labels"], used["revisions"]) == (9, 9)


def test_updates_and_steps_are_those_of_the_profile():
    p = profile("cpu", rollouts=64, minibatches=2, ppo_epochs=2, rounds=5, critic_warmup=0, micro_batch=24)
    args = prompts.sizes(p)
    assert args["per_device_train_batch_size"] * args["steps_per_generation"] == 64
    assert args["per_device_train_batch_size"] * args["gradient_accumulation_steps"] == 32
    assert args["max_steps"] == 5 * 2 * 2 and args["num_iterations"] == 2


def test_rto_waits_for_the_dpo_run_where_there_is_one():
    run = Run(profile("cpu"), 1)
    both = plan.plan([run.of("rto"), run.of("dpo")])
    assert "dpo, seed 1" in both["rto, seed 1"].needs and not both.keys() - set(plan.ahead(both, plan.SECONDS))
    assert "dpo, seed 1" not in plan.plan([run.of(METHODS["rto"])])["rto, seed 1"].needs


def test_a_row_recorded_before_shaping_and_options_is_the_same_method():
    new = asdict(METHODS["segment"])
    old = {name: x for name, x in new.items() if name not in ("shaping", "options")} | {"label": "another name"}
    assert identity.same_method(old, new) and not identity.same_method(old, asdict(METHODS["token"]))
    assert not identity.same_method(asdict(METHODS["abc"]), asdict(METHODS["bandit"]))
