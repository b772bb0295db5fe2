"""Masks in TRL's trainers: a loss that sees what it should not, or misses what it should, trains another method."""

import copy

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, KTOConfig, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from densereward.text.models import tiny_llama
from densereward.training.kto import TokenisedKTOTrainer
from densereward.training.masked import MaskedCollator, mask_advantages, mask_pairs
from densereward.training.online import ChosenCollator
from densereward.training.preference import TokenisedDPOTrainer
from densereward.training.settings import common
from test_ppo import TOKENIZER, bandit, models, trainer

BETA = 0.5
PAIRS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 10, 11], "rejected_ids": [12, 13]},
    {"prompt_ids": [20, 21], "chosen_ids": [22, 23], "rejected_ids": [24, 25, 26]},
    {"prompt_ids": [30], "chosen_ids": [31, 32, 33], "rejected_ids": [34, 35, 36, 37, 38]},
]
MASKS = [  # the second pair keeps nothing of its chosen side, the third nothing at all
    {"chosen_mask": [1, 0, 1, 0], "rejected_mask": [0, 1]},
    {"chosen_mask": [0, 0], "rejected_mask": [1, 0, 1]},
    {"chosen_mask": [0, 0, 0], "rejected_mask": [0, 0, 0, 0, 0]},
]
ONES = [{name: [1] * len(mask) for name, mask in row.items()} for row in MASKS]


def rows(masks):
    return [pair | mask for pair, mask in zip(PAIRS, masks)]


def policy_and_reference(seed=0):
    torch.manual_seed(seed)
    return tiny_llama(TOKENIZER, 16, 1), tiny_llama(TOKENIZER, 16, 1)


def dpo(folder, parts, data, collator, **settings):
    model, reference = parts
    args = DPOConfig(
        **common(folder, model, 0) | {"report_to": "none"},
        per_device_train_batch_size=len(data),
        beta=BETA,
        max_length=settings.pop("max_length", None),
        remove_unused_columns=settings.pop("remove_unused_columns", False),
        max_steps=1,
        **settings,
    )
    return TokenisedDPOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        data_collator=collator,
        train_dataset=Dataset.from_list(data),
        processing_class=TOKENIZER,
    )


def trl_collator(**settings):
    return DataCollatorForPreference(pad_token_id=TOKENIZER.pad_token_id, **settings)


def backward(trainer, data):
    """The loss of one batch, all parameters' gradients, and the gradient of the last hidden states, [2N, L, width]:
    position t - 1 of these is what token t is predicted from, and nothing else."""
    trainer.model.zero_grad()
    seen = []

    def keep(module, inputs, output):
        if output.last_hidden_state.requires_grad:  # not KTO's pass for its reference point
            output.last_hidden_state.retain_grad()
            seen.append(output.last_hidden_state)

    hook = trainer.model.model.register_forward_hook(keep)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(data))
    hook.remove()
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in trainer.model.named_parameters()}, seen[0].grad


def slow_scores(model, reference, side, masks):
    """h of each pair: a loop over tokens, on plain logits, one sequence at a time."""
    scores = []
    for pair, mask in zip(PAIRS, masks):
        ids = torch.tensor([pair["prompt_ids"] + pair[f"{side}_ids"]])
        mine, theirs = (type(m).forward(m, ids).logits[0].log_softmax(1) for m in (model, reference))
        total = torch.zeros(())
        for t, token in enumerate(pair[f"{side}_ids"]):
            before = len(pair["prompt_ids"]) + t - 1
            total = total + mask[f"{side}_mask"][t] * (mine[before, token] - theirs[before, token].detach())
        scores.append(total)
    return torch.stack(scores)


# --- DPO


def test_a_mask_of_ones_is_trls_own_loss_and_gradient_to_the_bit(tmp_path):
    parts = policy_and_reference()
    ours = backward(dpo(tmp_path, copy.deepcopy(parts), rows(ONES), MaskedCollator(trl_collator())), rows(ONES))
    theirs = backward(dpo(tmp_path, copy.deepcopy(parts), PAIRS, trl_collator()), PAIRS)
    assert torch.equal(ours[0], theirs[0])
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in theirs[1])


def test_the_masked_loss_is_equation_15_with_the_mask_inside_both_sums(tmp_path):
    model, reference = policy_and_reference()
    data = rows(MASKS)
    loss, gradients, _ = backward(dpo(tmp_path, (model, reference), data, MaskedCollator(trl_collator())), data)
    model.zero_grad()
    gap = slow_scores(model, reference, "chosen", MASKS) - slow_scores(model, reference, "rejected", MASKS)
    expected = -torch.nn.functional.logsigmoid(BETA * gap).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4)


def test_masked_tokens_get_no_gradient_and_kept_ones_dpos_own_but_for_the_sigmoid(tmp_path):
    """beta m_t sigmoid(-beta (h_w - h_l)): against plain DPO one factor per pair, exactly zero where m_t is 0."""
    parts, data = policy_and_reference(), rows(MASKS)
    masked = dpo(tmp_path, copy.deepcopy(parts), data, MaskedCollator(trl_collator()))
    full = backward(dpo(tmp_path, copy.deepcopy(parts), PAIRS, trl_collator()), PAIRS)[2]
    found = backward(masked, data)[2]
    kept = masked.data_collator(data)["completion_mask"][:, 1:].bool()  # token t is predicted at t - 1
    assert not found[:, :-1][~kept].any() and not found[:, -1].any()
    assert found[:, :-1][kept].abs().amin() > 0 and full[:, :-1][kept].abs().amin() > 0
    with torch.no_grad():
        gaps = [
            slow_scores(*parts, "chosen", masks) - slow_scores(*parts, "rejected", masks) for masks in (MASKS, ONES)
        ]
    factor = (torch.sigmoid(-BETA * gaps[0]) / torch.sigmoid(-BETA * gaps[1])).repeat(2)[:, None, None]
    assert (factor - 1).abs().max() > 1e-3, "the test cannot tell the sigmoids apart"
    expected = (full * factor)[:, :-1]
    torch.testing.assert_close(found[:, :-1][kept], expected[kept], atol=1e-7, rtol=1e-4)


def test_a_pair_of_which_nothing_is_left_counts_log_2_and_moves_nothing(tmp_path):
    data = rows(MASKS)[2:]
    loss, gradients, _ = backward(dpo(tmp_path, policy_and_reference(), data, MaskedCollator(trl_collator())), data)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item())
    assert not any(g.any() for g in gradients.values())


def test_precomputed_reference_scores_are_masked_alike(tmp_path):
    parts, data = policy_and_reference(), rows(MASKS)
    direct = backward(dpo(tmp_path, copy.deepcopy(parts), data, MaskedCollator(trl_collator())), data)
    ahead = dpo(
        tmp_path, copy.deepcopy(parts), data, MaskedCollator(trl_collator()), precompute_ref_log_probs=True
    )  # what it finds is in its dataset
    again = backward(ahead, [ahead.train_dataset[i] for i in range(len(data))])
    assert "ref_chosen_logps" in ahead.train_dataset.column_names
    assert direct[0].item() == pytest.approx(again[0].item(), abs=1e-6)


def test_a_training_step_runs_and_dropped_columns_are_an_error_not_an_unmasked_loss(tmp_path):
    data = rows(MASKS)
    parts = policy_and_reference()
    before = copy.deepcopy(parts[0].state_dict())
    dpo(tmp_path, parts, data, MaskedCollator(trl_collator()), learning_rate=1e-2).train()
    assert any(not torch.equal(before[name], p) for name, p in parts[0].state_dict().items())
    forgetful = dpo(tmp_path, parts, data, MaskedCollator(trl_collator()), remove_unused_columns=True)
    with pytest.raises(ValueError, match="row 0 has no 'chosen_mask'; add masks, and train with remove_unused_columns"):
        forgetful.train()


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("length", [2, 4, 6, None])
def test_masks_are_cut_as_the_collator_cuts_the_tokens(mode, length):
    data = rows(MASKS)
    batch = MaskedCollator(trl_collator(max_length=length, truncation_mode=mode))(data)
    plain = trl_collator(max_length=length, truncation_mode=mode)(data)
    kept_of = {  # every completion token occurs once
        token: keep
        for row in data
        for side in ("chosen", "rejected")
        for token, keep in zip(row[f"{side}_ids"], row[f"{side}_mask"])
    }
    for ids, ours, theirs in zip(batch["input_ids"], batch["completion_mask"], plain["completion_mask"]):
        expected = [m * kept_of.get(token, 0) for token, m in zip(ids.tolist(), theirs.tolist())]
        assert ours.tolist() == expected
    assert torch.equal(batch["attention_mask"], plain["attention_mask"]), "a masked token must still be read"


@pytest.mark.parametrize(
    "mask, message",
    [
        ([1, 0, -1, 1], "row 0: chosen_mask holds more than 0 and 1; this loss would take all else as 1"),
        ([1, 0, 1], "row 0: chosen_mask has 3 values for 4 completion tokens"),
        ([1, 0, 1, 1, 1], "row 0: chosen_mask has 5 values for 4 completion tokens"),
    ],
)
def test_masks_that_would_train_something_else_are_refused(mask, message):
    data = rows(MASKS)
    data[0]["chosen_mask"] = mask
    with pytest.raises(ValueError, match=message):
        MaskedCollator(trl_collator())(data)


# --- KTO


def test_kto_reads_the_same_mask_and_its_reference_point_whole_completions_of_other_rows(tmp_path):
    data = [
        {"prompt_ids": p["prompt_ids"], "completion_ids": p["chosen_ids"], "label": i != 1, "kept": m["chosen_mask"]}
        for i, (p, m) in enumerate(zip(PAIRS, MASKS))
    ]
    collator = MaskedCollator(DataCollatorForUnpairedPreference(pad_token_id=TOKENIZER.pad_token_id), ("kept",))
    model, reference = policy_and_reference()
    args = KTOConfig(
        **common(tmp_path, model, 0) | {"report_to": "none"},
        per_device_train_batch_size=3,
        beta=BETA,
        max_length=None,
        remove_unused_columns=False,
    )
    kto = TokenisedKTOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        data_collator=collator,
        train_dataset=Dataset.from_list(data),
        processing_class=TOKENIZER,
    )
    found = [kto.train_dataset[i] for i in range(3)]
    batch = collator(found)
    for i, (ids, mask) in enumerate(zip(batch["KL_input_ids"], batch["KL_attention_mask"], strict=True)):
        mismatched = data[i]["prompt_ids"] + data[i - 1]["completion_ids"]  # a row's own answer would be no mismatch
        assert ids[mask.bool()].tolist() == mismatched
    assert batch["completion_mask"].sum() == sum(sum(row["kept"]) for row in data)
    assert batch["KL_completion_mask"].sum() == sum(len(row["completion_ids"]) for row in data)
    *_, gradient = backward(kto, found)
    kept = batch["completion_mask"][:, 1:].bool()
    assert not gradient[:, :-1][~kept].any() and gradient[:, :-1][kept].abs().amin() > 0


# --- SFT


def test_sft_learns_kept_tokens_only_and_averages_over_them(tmp_path):
    sequences = [pair["prompt_ids"] + pair["chosen_ids"] for pair in PAIRS]
    kept = [[0] * len(pair["prompt_ids"]) + row["chosen_mask"] for pair, row in zip(PAIRS, MASKS)]
    masked = Dataset.from_dict({"input_ids": sequences, "completion_mask": kept})
    model, _ = policy_and_reference()
    args = SFTConfig(
        **common(tmp_path, model, 0) | {"report_to": "none"}, completion_only_loss=True, max_length=None, max_steps=1
    )
    sft = SFTTrainer(model=model, args=args, train_dataset=masked, processing_class=TOKENIZER)
    data = [sft.train_dataset[i] for i in range(3)]
    ours = ChosenCollator(TOKENIZER.pad_token_id)(rows(MASKS))["labels"]
    assert torch.equal(ours, sft.data_collator(data)["labels"]), "rejection sampling learns other tokens"
    loss, gradients, gradient = backward(sft, data)
    model.zero_grad()
    logps = []
    for ids, row in zip(sequences, masked["completion_mask"]):
        logs = type(model).forward(model, torch.tensor([ids])).logits[0].log_softmax(1)
        logps += [logs[t - 1, ids[t]] for t, keep in enumerate(row) if keep]
    expected = -sum(logps) / len(logps)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4)
    kept = torch.nn.utils.rnn.pad_sequence([torch.tensor(m) for m in masked["completion_mask"]], True)[:, 1:].bool()
    assert not gradient[:, :-1][~kept].any() and gradient[:, :-1][kept].abs().amin() > 0


# --- masks of datasets


def tokenised(**more):
    columns = {"chosen_completion_ids": [[1, 2, 3], [4]], "rejected_completion_ids": [[5, 6], [7, 8, 9, 10]]}
    return Dataset.from_dict({"prompt_ids": [[1], [2]]} | columns | more)


REWARDS = {"chosen": [[1.0, -1.0, 0.5], [-2.0]], "rejected": [[1.0, -1.0], [0.0, 1.0, 1.0, 1.0]]}


def test_masks_of_pairs_lie_beside_them_and_what_was_emptied_is_counted():
    pairs, counts = mask_pairs(tokenised(), REWARDS, baseline=0.0)
    assert pairs["chosen_mask"][:] == [[1, 0, 1], [0]] and pairs["rejected_mask"][:] == [[0, 1], [1, 0, 0, 0]]
    assert counts == {
        "baseline": 0.0,
        "chosen": {"samples": 2, "emptied": 1, "tokens": 4, "kept": 2, "good": 2},
        "rejected": {"samples": 2, "emptied": 0, "tokens": 6, "kept": 2, "good": 4},
    }


def test_without_a_baseline_the_mean_of_all_token_rewards_is_taken():
    assert mask_pairs(tokenised(), REWARDS)[1]["baseline"] == pytest.approx(0.15)


def test_segments_beside_the_pairs_are_decided_as_one():
    ids = {"chosen_segment_ids": [[0, 0, 1], [0]], "rejected_segment_ids": [[0, 0], [0, 0, 1, 1]]}
    pairs, _ = mask_pairs(tokenised(**ids), REWARDS, baseline=0.25)
    assert pairs["chosen_mask"][:] == [[0, 0, 1], [0]] and pairs["rejected_mask"][:] == [[1, 1], [0, 0, 0, 0]]


def test_rewards_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="row 1, rejected: 3 rewards for 4 tokens; give one per token"):
        mask_pairs(tokenised(), REWARDS | {"rejected": [[1.0, -1.0], [0.0, 1.0, 1.0]]})
    with pytest.raises(ValueError, match="chosen: rewards of 1 responses for 2"):
        mask_pairs(tokenised(), REWARDS | {"chosen": [[1.0, -1.0, 0.5]]})
    with pytest.raises(ValueError, match="the mask is signed, which TRL's losses on labels cannot take"):
        mask_pairs(tokenised(), REWARDS, signed=True)


# --- rollouts


def test_masked_advantages_are_equation_14_and_every_token_is_still_read(tmp_path):
    """min(rho A, clip(rho) A) M, divided as before by all tokens; signed: the surrogate of -A where M is -1."""
    made = trainer(tmp_path, models(), bandit)
    batch = made._generate_and_score_completions([made.train_dataset[i] for i in range(8)])
    batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * torch.randn(
        batch["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(0)
    )  # so that some ratios are clipped
    real = batch["completion_mask"]
    sign = torch.randint(-1, 2, real.shape, generator=torch.Generator().manual_seed(1)) * real
    made.current_gradient_accumulation_steps, made.args.vf_coef = 1, 0.0
    made.value_losses = []
    for factor in (sign.abs(), sign):
        masked = mask_advantages(batch, factor)
        loss = made._compute_loss(made.model, masked)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], real], 1)
        logps = made._get_per_token_logps_and_entropies(made.model, ids, attention, real.shape[1])[0]
        rho = (logps - batch["old_per_token_logps"]).exp()
        total = 0.0
        for i, t in real.nonzero().tolist():
            m, a, r = factor[i, t].item(), batch["advantages"][i, t].item(), rho[i, t]
            total = total - abs(m) * min(r * a * (1 if m >= 0 else -1), r.clamp(0.8, 1.2) * a * (1 if m >= 0 else -1))
        assert loss.item() == pytest.approx((total / real.sum()).item(), abs=1e-5)
    assert torch.equal(masked["completion_mask"], real)
    with pytest.raises(ValueError, match="give a factor per completion token"):
        mask_advantages(batch, sign[:, :-1])
    per_sample = mask_advantages(batch | {"advantages": batch["advantages"][:, 0]}, sign)["advantages"]
    assert torch.equal(per_sample, batch["advantages"][:, :1] * sign), "GRPO's advantages are one per sample"
