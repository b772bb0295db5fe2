"""Adaptive masks: a token on the wrong side of a threshold, or a sample lost unseen, trains the wrong thing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.reward.masks import (
    DECISIONS,
    RunningMean,
    adaptive_mask,
    flips,
    preferred_by,
    segment_means,
    td_baseline,
)
from densereward.reward.segments import segment_ids

OFFSETS = [name for name in DECISIONS if name != "threshold"]


@st.composite
def batches(draw, width=12):
    """Rewards in eighths, so that no difference is rounded and ties are frequent; a random b; rubbish on padding."""
    lengths = draw(st.lists(st.integers(1, width), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    rewards = torch.randint(-8, 9, mask.shape, generator=generator) / 8
    rewards[mask == 0] = draw(st.sampled_from([0.0, 7.0, float("nan"), float("inf")]))
    chosen = torch.rand(len(lengths), generator=generator) < 0.5
    starts = torch.rand(mask.shape, generator=generator) < 0.4
    return {"rewards": rewards, "mask": mask, "chosen": chosen, "baseline": draw(st.integers(-4, 4)) / 8}, starts


deltas = st.integers(0, 10).map(lambda n: n / 8)


def slow_states(row, baseline, decision, delta):
    """The states of the real tokens of one row, token by token."""
    states, held = [], 0
    for reward in row:
        if decision == "threshold":
            states.append(1 if reward > baseline else -1)
            continue
        if reward > baseline + delta:
            held = 1
        elif reward < baseline - delta:
            held = -1
        elif decision == "three-way":
            held = 0
        states.append(held)
    return states


def slow(rewards, mask, chosen, baseline, decision="threshold", delta=0.0, signed=False):
    factors = torch.zeros(rewards.shape, dtype=torch.long)
    for i in range(len(rewards)):
        n = int(mask[i].sum())
        for t, state in enumerate(slow_states(rewards[i, :n].tolist(), baseline, decision, delta)):
            agrees = state if chosen[i] else -state
            factors[i, t] = agrees if signed else agrees == 1
    return factors


# --- what is kept


@settings(deadline=None)
@given(batches(), st.sampled_from(list(DECISIONS)), deltas, st.booleans())
def test_masks_equal_a_loop_over_tokens_and_padding_never_leaks(drawn, decision, delta, signed):
    batch, _ = drawn
    delta = delta * (decision != "threshold")
    found = adaptive_mask(**batch, decision=decision, delta=delta, signed=signed)
    expected = slow(**batch, decision=decision, delta=delta, signed=signed)
    assert torch.equal(found.mask.long(), expected)
    assert torch.equal(found.emptied, ~expected.bool().any(1))
    assert not found.mask[batch["mask"] == 0].any() and not found.states[batch["mask"] == 0].any()


@given(batches())
def test_the_default_is_equation_13_as_printed(drawn):
    batch, _ = drawn
    above = batch["rewards"] > batch["baseline"]
    chosen, real = batch["chosen"][:, None], batch["mask"].bool()
    printed = ((chosen & above) | (~chosen & ~above)) & real
    assert torch.equal(adaptive_mask(**batch).mask, printed)


@given(batches(), st.sampled_from(OFFSETS))
def test_without_an_offset_every_decision_is_equation_13_but_at_ties(drawn, decision):
    batch, _ = drawn
    found, plain = adaptive_mask(**batch, decision=decision), adaptive_mask(**batch)
    tie = (batch["rewards"] == batch["baseline"]) & batch["mask"].bool()
    assert torch.equal(found.mask[~tie], plain.mask[~tie])
    if decision == "three-way":
        assert not found.mask[tie].any(), "Eq. 17 makes a tie neutral, Eq. 13 makes it bad"


@given(batches(), st.sampled_from(list(DECISIONS)))
def test_a_segment_is_decided_by_its_mean_and_as_one(drawn, decision):
    batch, starts = drawn
    ids = segment_ids(starts, batch["mask"])
    found = adaptive_mask(**batch, decision=decision, segment_ids=ids)
    means = torch.zeros_like(batch["rewards"], dtype=torch.double)
    for i, row in enumerate(ids.tolist()):
        for s in set(row) - {-1}:
            inside = [t for t, other in enumerate(row) if other == s]
            means[i, inside] = sum(batch["rewards"][i, t].item() - batch["baseline"] for t in inside) / len(inside)
    again = adaptive_mask(means, batch["mask"], batch["chosen"], 0.0, decision)
    assert torch.equal(found.mask, again.mask) and torch.equal(found.states, again.states)
    single = segment_ids(torch.ones_like(starts), batch["mask"])
    by_token = adaptive_mask(**batch, decision=decision, segment_ids=single)
    assert torch.equal(by_token.mask, adaptive_mask(**batch, decision=decision).mask)


def test_tokens_outside_every_segment_teach_nothing():
    rewards, ids = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]), torch.tensor([[0, 0, -1]] * 2)
    found = adaptive_mask(rewards, torch.ones(2, 3), torch.tensor([True, False]), segment_ids=ids)
    assert found.mask.tolist() == [[True, True, False]] * 2
    assert segment_means(rewards, ids).tolist() == [[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]


@pytest.mark.parametrize("junk", [9.0, float("nan"), float("-inf")])
def test_a_token_that_is_masked_out_amid_a_sample_decides_nothing_behind_it(junk):
    rewards, real = torch.tensor([[2.0, junk, 0.0, -2.0]]), torch.tensor([[1, 0, 1, 1]])
    found = adaptive_mask(rewards, real, torch.tensor([True]), 0.0, "schmitt", 1.0)
    assert found.states.tolist() == [[1, 0, 1, -1]]


def test_a_signed_mask_turns_round_what_a_rejected_sample_teaches():
    """On a rejected sample a loss pushes down: a bad token stays as it is (1), a good one is pushed up (-1)."""
    rewards = torch.tensor([[2.0, 0.0, -2.0]] * 2)
    found = adaptive_mask(rewards, torch.ones(2, 3), torch.tensor([True, False]), 0.0, "three-way", 1.0, signed=True)
    assert found.mask.tolist() == [[1, 0, -1], [-1, 0, 1]]
    assert found.states.tolist() == [[1, 0, -1]] * 2, "Eq. 18 itself does not look at the sample"


# --- samples that nothing is left of


@given(batches(), st.sampled_from(OFFSETS), deltas)
def test_a_sample_without_a_kept_token_is_counted(drawn, decision, delta):
    batch, _ = drawn
    found = adaptive_mask(**batch, decision=decision, delta=delta)
    assert torch.equal(found.emptied, ~found.mask.any(1))


# --- what the offset does, and what it does not


@given(batches(), deltas, deltas)
def test_good_and_bad_tokens_become_fewer_as_the_offset_grows(drawn, one, other):
    batch, _ = drawn
    small, large = (adaptive_mask(**batch, decision="three-way", delta=d).states for d in sorted((one, other)))
    for state in (1, -1):
        assert ((small == state) | (large != state)).all()


def test_with_memory_the_good_tokens_may_become_more():
    """A counterexample: the second token is bad at offset 0, and held good where 1 is no more enough to decide it."""
    rewards, real = torch.tensor([[3.0, -1.0]]), torch.ones(1, 2)
    states = [adaptive_mask(rewards, real, torch.tensor([True]), 0.0, "schmitt", d).states for d in (0.0, 2.0)]
    assert [s.tolist() for s in states] == [[[1, -1]], [[1, 1]]]


@settings(deadline=None)
@given(batches(), deltas, deltas)
def test_flips_between_good_and_bad_never_become_more_and_memory_does_not_change_them(drawn, one, other):
    batch, _ = drawn
    counts = {
        decision: [
            flips(adaptive_mask(**batch, decision=decision, delta=d).states, batch["mask"])
            for d in sorted((one, other))
        ]
        for decision in OFFSETS
    }
    for small, large in counts.values():
        assert (large <= small).all()
    assert torch.equal(*(counts[name][1] for name in OFFSETS)), "held tokens flip nowhere that decided ones do not"


@given(batches(), deltas)
def test_flips_are_counted_as_a_loop_counts_them(drawn, delta):
    batch, _ = drawn
    for decision in OFFSETS:
        states = adaptive_mask(**batch, decision=decision, delta=delta).states
        for i, n in enumerate(batch["mask"].sum(1).tolist()):
            row = states[i, :n].tolist()
            decided = [s for s in row if s]
            assert flips(states, batch["mask"])[i] == sum(a != b for a, b in zip(decided, decided[1:]))
            assert flips(states, batch["mask"], neutral=True)[i] == sum(a != b for a, b in zip(row, row[1:]))


def test_without_memory_an_offset_can_cut_a_sample_into_more_pieces():
    """Appendix E says that the neutral zone makes changes of class rarer. A counterexample for Eq. 17: one good run
    becomes three runs, as a dip turns neutral. The trigger with memory keeps it one."""
    rewards, real = torch.tensor([[3.0, 1.0, 3.0]]), torch.ones(1, 3)
    found = {}
    for decision in OFFSETS:
        states = [adaptive_mask(rewards, real, torch.tensor([True]), 0.0, decision, d).states for d in (0.0, 2.0)]
        found[decision] = [int(flips(s, real, neutral=True)) for s in states]
    assert found == {"three-way": [0, 2], "schmitt": [0, 0]}


@given(batches(), deltas, deltas)
def test_with_memory_changes_of_class_grow_by_the_undecided_beginning_at_most(drawn, one, other):
    batch, _ = drawn
    counts = [
        flips(adaptive_mask(**batch, decision="schmitt", delta=d).states, batch["mask"], neutral=True)
        for d in sorted((one, other))
    ]
    assert (counts[1] <= counts[0] + 1).all()


# --- who is preferred


@given(batches(), st.integers(-3, 3))
def test_preferred_is_what_stands_above_its_round_wherever_that_stands(drawn, shift):
    """A loop's; and as many of a round as of the same round where every answer is paid `shift` more."""
    rewards, mask = drawn[0]["rewards"].nan_to_num(0, 0), drawn[0]["mask"]
    totals = [sum(row[:n]) for row, n in zip(rewards.tolist(), mask.sum(1).tolist())]
    found = preferred_by("round", rewards, None, mask)
    assert found.tolist() == [total > sum(totals) / len(totals) for total in totals]
    more = rewards + shift * (torch.arange(mask.shape[1]) == 0)
    assert torch.equal(preferred_by("round", more, None, mask), found)
    assert preferred_by("advantage", None, rewards, mask).tolist() == [total > 0 for total in totals]
    alone = torch.tensor(totals)[:, None]
    assert preferred_by("group", None, alone, mask).tolist() == [total > 0 for total in totals]


# --- baselines


def test_a_running_mean_is_that_of_all_real_tokens_so_far():
    running, seen = RunningMean(), []
    generator = torch.Generator().manual_seed(0)
    for lengths in ([3, 1], [4, 2], [1, 1]):
        mask = torch.arange(4) < torch.tensor(lengths)[:, None]
        rewards = torch.randn(2, 4, generator=generator)
        seen.append(rewards[mask])
        found = running(rewards.masked_fill(~mask, float("nan")), mask)
        assert float(found) == pytest.approx(float(torch.cat(seen).mean()), abs=1e-6)


@given(batches(), st.sampled_from([0.5, 1.0]))
def test_above_its_baseline_means_a_positive_td_error(drawn, gamma):
    batch, _ = drawn
    values = torch.randint(-8, 9, batch["mask"].shape, generator=torch.Generator().manual_seed(1)) / 8
    values[batch["mask"] == 0] = float("nan")
    found = adaptive_mask(**batch | {"baseline": td_baseline(values, batch["mask"], gamma)}).states
    for i, n in enumerate(batch["mask"].sum(1).tolist()):
        for t in range(n):
            following = values[i, t + 1].item() if t + 1 < n else 0.0
            error = batch["rewards"][i, t].item() + gamma * following - values[i, t].item()
            assert found[i, t] == (1 if error > 0 else -1)


# --- bad input


def test_bad_input_is_named():
    rewards, mask, chosen = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([True, False])
    with pytest.raises(ValueError, match="unknown decision 'fuzzy'; choose one of threshold, three-way, schmitt"):
        adaptive_mask(rewards, mask, chosen, decision="fuzzy")
    with pytest.raises(ValueError, match="unknown preferred 'luck'; choose one of round, group, advantage"):
        preferred_by("luck", rewards, rewards, mask)
    with pytest.raises(ValueError, match="delta is 1.0; give an offset of 0 or more, and 0 for decision 'threshold'"):
        adaptive_mask(rewards, mask, chosen, delta=1.0)
    with pytest.raises(ValueError, match="delta is -1.0"):
        adaptive_mask(rewards, mask, chosen, decision="schmitt", delta=-1.0)
    with pytest.raises(ValueError, match=r"have shapes \[\[2, 3\], \[2, 3\], \[1\]\]"):
        adaptive_mask(rewards, mask, chosen[:1])
    rewards[1, 2] = float("nan")
    with pytest.raises(ValueError, match="row 1: a reward less its baseline is not finite"):
        adaptive_mask(rewards, mask, chosen)
    adaptive_mask(rewards, mask * torch.tensor([[1], [0]]), chosen)
