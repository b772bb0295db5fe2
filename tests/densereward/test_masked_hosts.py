"""What would break: GRPO and KTO under a mask that are not themselves where the mask is all ones, or that learn from
what the mask takes out."""

import pytest
import torch
from datasets import Dataset

from densereward.reward.masks import Masked
from densereward.training import group, kto
from study.methods import METHODS
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from test_baselines import PROMPTS, TINY, TOKENIZER, common, even, load, weights

PAIRS = [
    {"prompt_ids": [5 + i, 6], "chosen_completion_ids": [7, 8 + i, 9], "rejected_completion_ids": [20 + i, 21]}
    for i in range(12)
]


def decide_by(keep):
    """A decider that keeps what `keep` says of (completion ids, preferred) and remembers what it was given."""

    def decide(batch, chosen, *unused):
        decide.chosen, decide.advantages = chosen, batch["advantages"]
        mask = keep(batch["completion_ids"], chosen) & batch["completion_mask"].bool()
        return Masked(mask, mask.long(), ~mask.any(1))

    return decide


def grpo(out, model, decide=None, **changes):
    made = group.trainer_of(
        "grpo", model, even, [], 0.05, common(out, **changes), 4, decide,
        train_dataset=Dataset.from_list(PROMPTS), processing_class=TOKENIZER,
    )  # fmt: skip
    made.train()
    return made


def apart(a, b) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_a_mask_of_ones_leaves_grpo_as_it_is_and_one_of_zeros_leaves_only_its_kl(tmp_path, folder):
    shape = {"max_steps": 4, "optim": "sgd", "learning_rate": 0.3, "num_iterations": 2}
    start = weights(load(folder))
    plain = grpo(tmp_path / "a", load(folder), **shape)
    ones = grpo(tmp_path / "b", load(folder), decide_by(lambda ids, chosen: ids >= 0), **shape)
    zeros = grpo(tmp_path / "c", load(folder), decide_by(lambda ids, chosen: ids < 0), **shape)
    assert apart(weights(plain.model), start) > 1e-3
    # To the bit in the first rollout batch; then [B, T] advantages round apart from [B] ones by a float32's last bit.
    assert apart(weights(ones.model), weights(plain.model)) <= 2**-23
    shape["max_steps"] = 2
    plain, ones = (
        grpo(tmp_path / name, load(folder), decide, **shape)
        for name, decide in (("d", None), ("e", decide_by(lambda ids, chosen: ids >= 0)))
    )
    assert apart(weights(ones.model), weights(plain.model)) == 0.0
    assert apart(weights(zeros.model), start) < 1e-6  # the KL term has no gradient at the reference
    assert ones.curves[0]["kept"] == 1.0 and zeros.curves[0]["kept"] == 0.0 and zeros.curves[0]["emptied"] == 16


def test_preferred_are_the_responses_above_their_groups_mean(tmp_path, folder):
    decide = decide_by(lambda ids, chosen: chosen[:, None].expand_as(ids))
    made = grpo(tmp_path, load(folder), decide)
    assert torch.equal(decide.chosen, decide.advantages > 0) and 0 < decide.chosen.sum() < len(decide.chosen)
    row = made.curves[0]
    assert 0 < row["kept"] < 1 and row["preferred"] == decide.chosen.float().mean().item()
    assert row["good_preferred"] == 1.0 and row["good_rejected"] == 0.0  # what this decider takes for good


def test_only_grpo_of_these_takes_a_mask_and_not_without_a_reference(tmp_path, folder):
    with pytest.raises(KeyError):
        group.trainer_of("rloo", load(folder), even, [], 0.05, common(tmp_path), 4, decide_by(None))
    with pytest.raises(ValueError, match="set kl_coef above 0"):
        group.trainer_of(
            "grpo", load(folder), even, [], 0.0, common(tmp_path), 4, decide_by(None),
            train_dataset=Dataset.from_list(PROMPTS), processing_class=TOKENIZER,
        )  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_answer_stands_after_another_to_its_own_prompt(size):
    """KTO's reference point takes each row's prompt with the answer before: of the same prompt it would be no mismatch.
    And every batch has both labels."""
    rows = kto.unpaired(Dataset.from_list(PAIRS), size, 0)
    told = {(tuple(p), tuple(c)): w for p, c, w in zip(rows["prompt_ids"], rows["completion_ids"], rows["label"])}
    expected = {
        (tuple(row["prompt_ids"]), tuple(row[f"{side}_completion_ids"])): side == "chosen"
        for row in PAIRS
        for side in ("chosen", "rejected")
    }
    assert told == expected and len(rows) == 24
    prompts, labels = [tuple(p) for p in rows["prompt_ids"]], rows["label"][:]
    assert all(prompts[i] != prompts[i - 1] for i in range(len(prompts)))
    assert all(0 < sum(labels[i : i + 2 * size]) < 2 * size for i in range(0, 24 - 2 * size, 2 * size))
    assert kto.unpaired(Dataset.from_list(PAIRS), size, 1)["prompt_ids"][:] != rows["prompt_ids"][:]


def train_kto(tmp_path, folder, masks=None):
    rows = [row | ({} if masks is None else masks(row)) for row in PAIRS]
    model, p = load(folder), profile("smoke", rm_batch=3, dpo_learning_rate=1e-2)
    curve = kto.train_kto(
        model,
        load(folder),
        TOKENIZER,
        Dataset.from_list(rows),
        tmp_path,
        0,
        p.rm_batch,
        p.dpo_learning_rate,
        p.dpo_beta,
    )
    return weights(model), curve


def test_a_mask_of_ones_leaves_kto_as_it_is_and_other_masks_do_not(tmp_path, folder):
    def ones(row):
        return {f"{side}_mask": [1] * len(row[f"{side}_completion_ids"]) for side in ("chosen", "rejected")}

    def first(row):
        return {name: [1] + [0] * (len(mask) - 1) for name, mask in ones(row).items()}

    start, (plain, curve) = weights(load(folder)), train_kto(tmp_path / "a", folder)
    assert (
        apart(plain, start) > 1e-3
        and curve[-1]["chosen"] - curve[-1]["rejected"] > curve[0]["chosen"] - curve[0]["rejected"]
    )
    assert apart(train_kto(tmp_path / "b", folder, ones)[0], plain) == 0.0
    assert apart(train_kto(tmp_path / "c", folder, first)[0], plain) > 1e-4


def test_each_is_a_run_like_any_other(tmp_path):
    run = Run(profile("smoke", **TINY), 0, root=tmp_path)
    made = {name: recorded(run.of(METHODS[name])) for name in ("kto", "kto-masked", "grpo-masked")}
    for name in ("kto", "kto-masked"):
        assert made[name]["preference_curve"] and made[name]["used"]["preference_labels"] == 32
    assert made["kto-masked"]["mask"]["chosen"]["samples"] == 32 and "mask" not in made["kto"]
    assert 0 < made["grpo-masked"]["curves"][0]["kept"] < 1 and made["grpo-masked"]["used"]["responses"] == 16
