"""What would break: parts of different papers put together that pay, or learn from, something else than they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.reward import segments, shaping
from densereward.training.step_advantages import charged, leave_one_out, step_advantages
from study.methods import CROSS, METHODS
from study.profiles import profile
from study.record import record as recorded
from study.run import Run
from test_baselines import TINY, TOKENIZER, even, load, trainer, weights


def at_last_token(batch):
    """What `even` pays a response, at its last token, which is its only step."""
    ids, mask = batch["completion_ids"], batch["completion_mask"].bool()
    last = segments.segment_ends(segments.segment("bandit", mask=mask))
    share = ((ids % 2 == 0) & mask).sum(1) / mask.sum(1)
    return last * share[:, None], last


def at_every_token(batch):
    """1 for an even token id, at once."""
    mask = batch["completion_mask"].bool()
    return ((batch["completion_ids"] % 2 == 0) & mask).float(), mask


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_advantages_are_sums_to_go_of_rewards_normalised_over_the_steps_of_a_group(data):
    groups, generations, width = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(2, 3)),
        data.draw(st.integers(1, 6)),
    )
    shape = (groups * generations, width)
    rows = data.draw(
        st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=shape[0], max_size=shape[0])
    )
    steps = torch.tensor(rows)
    steps[:, data.draw(st.integers(0, width - 1))] = True
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    rewards = torch.randn(shape, generator=g) * steps
    found = step_advantages(rewards, steps, generations)
    for i in range(groups):
        members = range(i * generations, (i + 1) * generations)
        paid = torch.tensor([rewards[b, t] for b in members for t in range(width) if steps[b, t]]).double()
        std = paid.std() if len(paid) > 1 else 0.0
        for b in members:
            for t in range(width):
                ahead = [(rewards[b, k] - paid.mean()) / (std + 1e-4) for k in range(t, width) if steps[b, k]]
                assert found[b, t].item() == pytest.approx(float(sum(ahead)), abs=1e-4)


def test_an_advantage_that_cannot_be_is_refused():
    rewards, steps = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    off = steps.clone()
    off[0, 1] = False
    with pytest.raises(ValueError, match="off the ends"):
        step_advantages(rewards, off, 2)
    off[1] = False
    with pytest.raises(ValueError, match="row 1 has no segment"):
        step_advantages(rewards * off, off, 2)


def test_with_one_step_per_response_it_is_trls_grpo(tmp_path, folder):
    shape = {"max_steps": 4, "optim": "sgd", "learning_rate": 0.3, "num_iterations": 2}
    start = weights(load(folder))
    ours = trainer("dense-grpo", tmp_path / "a", load(folder), at_last_token, **shape)
    ours.train()
    theirs = trainer("grpo", tmp_path / "b", load(folder), even, **shape)
    theirs.train()
    ends = weights(ours.model), weights(theirs.model)
    moved = max((ends[1][name] - start[name]).abs().max() for name in start)
    assert moved > 1e-3 and max((ends[0][name] - ends[1][name]).abs().max() for name in start) < 1e-3 * moved
    for a, b in zip(ours.curves, theirs.curves, strict=True):
        assert a["proxy_reward"] == pytest.approx(b["even"], abs=1e-6) and a["kl"] == pytest.approx(b["kl"], abs=1e-5)


@given(st.data())
def test_left_out_is_ones_own_and_with_one_step_it_is_rloo(data):
    generations, groups, width = data.draw(st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 5)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    shape = (generations * groups, width)
    steps = torch.rand(shape, generator=g) < 0.5
    steps[:, -1] = True
    rewards, kl = (torch.randn(shape, generator=g) for _ in range(2))
    found = leave_one_out(rewards * steps, steps, generations)
    for b in range(len(rewards)):
        group = range(b - b % generations, b - b % generations + generations)
        others = torch.cat([rewards[o][steps[o]] for o in group if o != b]).mean()
        for t in range(width):
            ahead = sum(float(rewards[b, k] - others) for k in range(t, width) if steps[b, k])
            assert found[b, t].item() == pytest.approx(ahead, abs=1e-4)
    whole = torch.zeros_like(steps)
    whole[:, -1] = True
    totals = (rewards.sum(1) - 0.3 * kl.sum(1)).view(groups, generations)  # RLOO: the KL is in the reward
    want = totals - (totals.sum(1, keepdim=True) - totals) / (generations - 1)
    paid = charged(rewards.sum(1, keepdim=True) * whole, 0.3 * kl, whole)
    assert torch.allclose(leave_one_out(paid, whole, generations), want.view(-1, 1).expand(shape), atol=1e-4)


def test_the_kl_of_a_steps_tokens_is_charged_at_its_end():
    steps = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 0, 0, 0]]).bool()
    kl = torch.tensor([[1.0, 2.0, 4.0, -1.0, 8.0], [1.0, 5.0, 0.0, 0.0, 0.0]])
    rewards = torch.full((2, 5), 10.0) * steps
    assert charged(rewards, kl, steps).tolist() == [[0, 7, 0, 0, -1], [9, 5, 0, 0, 0]]


def test_with_one_step_per_response_advantages_are_trls_rloos(tmp_path, folder):
    """Away from the reference, so that the KL in the reward counts."""
    made = {}
    for kind, reward in (("rloo", even), ("dense-rloo", at_last_token)):
        run = trainer(kind, tmp_path / kind, load(folder, 0.1), reward, kl_coef=0.3)
        run.noted, run.sums = {}, {}
        rows = next(iter(run.get_train_dataloader()))
        torch.manual_seed(3)
        made[kind] = run._generate_and_score_completions(rows)
    mask, want = made["rloo"]["completion_mask"], made["rloo"]["advantages"]
    assert torch.equal(mask, made["dense-rloo"]["completion_mask"]) and want.std() > 0.01
    assert torch.allclose(made["dense-rloo"]["advantages"] * mask, want[:, None] * mask, atol=1e-5)


def test_on_steps_rloo_charges_kl_in_the_reward_and_says_how_far_it_is(tmp_path, folder):
    runs = {}
    for kl_coef in (1e-6, 20.0):
        run = trainer(
            "dense-rloo", tmp_path / str(kl_coef), load(folder), at_every_token, kl_coef=kl_coef, max_steps=30
        )
        run.train()
        runs[kl_coef] = sum(row["kl"] for row in run.curves[-5:])
        assert run.beta == 0 and all(abs(row["kl"]) < 1e6 for row in run.curves)
    assert abs(runs[20.0]) < 0.5 * runs[1e-6]


@pytest.mark.parametrize("kind", ["dense-grpo", "dense-rloo"])
def test_it_learns_from_a_reward_per_token(tmp_path, folder, kind):
    run = trainer(kind, tmp_path, load(folder), at_every_token, metrics=[even], max_steps=30)
    run.train()
    share = [row["even"] for row in run.curves]
    assert sum(share[-5:]) / 5 > sum(share[:5]) / 5 + 0.15


@pytest.mark.parametrize("kind", ["dense-grpo", "dense-rloo"])
def test_without_a_reference_there_are_no_segments(tmp_path, folder, kind):
    with pytest.raises(ValueError, match="set kl_coef above 0"):
        trainer(kind, tmp_path, load(folder), at_every_token, kl_coef=0.0)


def test_pooling_gives_each_entropy_segment_its_tokens_mean_and_keeps_its_total():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    entropies = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0], [0.0, 3.0, 3.0, 9.0, 9.0]])
    paid = torch.tensor([[1.0, 3.0, 6.0, 0.0, 0.0], [5.0, -1.0, 2.0, 0.0, 0.0]])
    pooled = shaping.by_segments(lambda batch: paid, {"kind": "entropy", "cutoff": 1.75}, TOKENIZER)
    batch = {"completion_mask": mask, "completion_ids": mask, "ref_entropies": entropies}
    assert pooled(batch).tolist() == [[2.0, 2.0, 2.0, 2.0, 2.0], [5.0, -1.0, 2.0, 0.0, 0.0]]
    lost = shaping.by_segments(lambda batch: paid, {"kind": "entropy", "cutoff": 1.75, "eos": "released"}, TOKENIZER)
    with pytest.raises(ValueError, match="outside every segment"):
        lost(batch | {"completion_ids": mask * TOKENIZER.eos_token_id})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    run = Run(profile("smoke", **TINY), 0, root=tmp_path_factory.mktemp("runs"))
    return {name: recorded(run.of(METHODS[name])) for name in ("tlcr", "segment", *CROSS)}


def test_every_cross_is_a_run_like_any_other(records):
    for name in CROSS:
        record = records[name]
        assert record["used"]["responses"] == 16 and len(record["curves"]) == 2
        assert {"proxy_reward", "true_return", "kl", "length", "repetition"} <= record["curves"][-1].keys()
        assert {"advantages_credit_pearson", "boundary_recall"} <= record["credit"].keys()
    first = [records[name]["curves"][0] for name in ("tlcr", "tlcr-pooled")]  # the same answers, the same totals
    assert first[0]["true_return"] == first[1]["true_return"]
    assert first[0]["proxy_reward"] == pytest.approx(first[1]["proxy_reward"], abs=1e-4)
