"""The error decomposition: its identities are exact, its optimum is the optimum, and what is measured was planted."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruptures import Pelt

from densereward.reward.masks import DECISIONS
from densereward.reward.segments import segment_ids
from report import partition_figures
from study.measures import decomposition as D
from study.measures import granularity as G
from study.measures.answer_rewards import batches
from testbed import oracle


@st.composite
def cases(draw, width=8):
    """True and noisy rewards, rubbish on padding, and any partition."""
    lengths = draw(st.lists(st.integers(1, width), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    truth, noisy = torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64)
    junk = draw(st.sampled_from([0.0, float("nan"), 1e6]))
    starts = torch.rand(mask.shape, generator=generator) < 0.4
    return truth.masked_fill(~mask, junk), noisy.masked_fill(~mask, junk), segment_ids(starts, mask)


def slow(truth, noisy, ids, reads):
    """PARTS of one row, by the definitions, token by token."""
    found = dict.fromkeys(D.PARTS, 0.0)
    for segment in sorted(set(ids.tolist()) - {-1}):
        tokens = [t for t, s in enumerate(ids.tolist()) if s == segment]
        given, ideal = (
            sum(x[t].item() for t in tokens) / len(tokens) if reads == "mean" else x[tokens[-1]].item()
            for x in (noisy, truth)
        )
        for t in tokens:
            r = truth[t].item()
            found["approximation"] += (r - ideal) ** 2
            found["noise"] += (given - ideal) ** 2
            found["cross"] += 2 * (given - ideal) * (ideal - r)
            found["total"] += (given - r) ** 2
    return found


def all_partitions(n):
    """Segment ids of every partition of n tokens, [2^(n - 1), n]."""
    cuts = torch.tensor(list(itertools.product((0, 1), repeat=n - 1))).reshape(2 ** (n - 1), n - 1)
    return torch.nn.functional.pad(cuts, (1, 0)).cumsum(1).long()


# --- the identities


@given(cases(), st.sampled_from(list(D.READS)))
def test_the_parts_sum_to_the_total_and_are_those_of_a_loop(case, reads):
    truth, noisy, ids = case
    found = D.decompose(truth, noisy, ids, reads)
    torch.testing.assert_close(found["approximation"] + found["noise"] + found["cross"], found["total"])
    for i in range(len(ids)):
        for name, expected in slow(truth[i], noisy[i], ids[i], reads).items():
            assert found[name][i].item() == pytest.approx(expected, abs=1e-9), name
    assert torch.equal(found["tokens"], (ids >= 0).sum(1)) and torch.equal(found["segments"], ids.max(1).values + 1)


@given(cases())
def test_means_have_no_cross_term_whatever_the_noise(case):
    assert D.decompose(*case, "mean")["cross"].abs().max() < 1e-9


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_noise_of_means_is_c2_k_and_that_of_last_tokens_c2_n_for_every_partition(n):
    """Exact, without sampling: what noise adds is a quadratic form in it, so its expectation for independent noise of
    deviation 1 is its sum over unit vectors."""
    for ids in all_partitions(n):
        rows = ids.expand(n, n)
        units, zero = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
        expected = {reads: D.decompose(zero, units, rows, reads)["noise"].sum().item() for reads in D.READS}
        assert expected["mean"] == pytest.approx(int(ids[-1]) + 1), "Eq. 12's K"
        assert expected["last"] == pytest.approx(n), "as many as there are tokens: Eq. 12 does not hold"


def test_read_at_the_last_token_no_partition_is_expected_to_beat_single_tokens_but_means_are():
    truth, c2 = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, 0.2], dtype=torch.float64), 0.5
    every = all_partitions(6)
    truths = truth.expand(len(every), 6)
    approximation = {reads: D.decompose(truths, truths, every, reads)["approximation"] for reads in D.READS}
    assert (approximation["last"] + c2 * 6).min() == c2 * 6
    assert (approximation["mean"] + c2 * (every.max(1).values + 1)).min() < c2 * 6
    assert (approximation["last"] >= approximation["mean"] - 1e-12).all(), "a mean approximates best"


# --- the optimum


@settings(deadline=None, max_examples=60)
@example([1.0, 0.0, 1.0, 0.0, 1.0], 0.3)  # five segments cost as much as one: in float32 the tie is none
@given(st.lists(st.integers(-4, 4).map(lambda n: n / 4), min_size=1, max_size=10), st.sampled_from([0.01, 0.3, 1, 4]))
def test_change_points_are_the_optimum_over_all_partitions(values, penalty):
    row = torch.tensor([values], dtype=torch.float64)
    n, every = len(values), all_partitions(len(values))
    rows = row.expand(len(every), n)
    costs = D.decompose(rows, rows, every, "mean")["approximation"] + penalty * (every.max(1).values + 1).double()
    ids = D.change_points(row, torch.ones(1, n), torch.tensor([penalty], dtype=torch.float64))
    found = D.decompose(row, row, ids, "mean")["approximation"] + penalty * (ids.max() + 1).double()
    assert found.item() == pytest.approx(costs.min().item(), abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(2, 40))
def test_the_search_is_as_good_as_the_same_librarys_reference_pelt(seed, n):
    values = torch.randn(1, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids = D.change_points(values, torch.ones(1, n), torch.tensor([0.7]))
    ends = Pelt(model="l2", min_size=1, jump=1).fit_predict(values[0].numpy(), pen=0.7)
    theirs = torch.tensor(np.searchsorted(ends, np.arange(n), side="right"))[None]
    cost = [
        D.decompose(values, values, x, "mean")["approximation"].item() + 0.7 * (x.max().item() + 1)
        for x in (ids, theirs)
    ]
    assert cost[0] == pytest.approx(cost[1], abs=1e-9)


def test_padding_and_answers_of_one_token_have_a_partition_too():
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    values = torch.tensor([[1.0, float("nan"), 9.0], [0.0, 0.0, 5.0]])
    ids = D.change_points(values, mask, torch.tensor([1.0, 1.0]))
    assert ids.tolist() == [[0, -1, -1], [0, 0, 1]]


# --- partitions


@given(cases(), st.sampled_from(list(DECISIONS)), st.sampled_from([0.0, 0.5]))
def test_the_adaptive_partition_is_runs_of_one_state(case, decision, delta):
    _, noisy, ids = case
    mask, delta = ids >= 0, delta * (decision != "threshold")
    found = D.crossings(noisy, mask, 0.1, decision, delta)
    for i, n in enumerate(mask.sum(1).tolist()):
        states, held = [], 0
        for r in noisy[i, :n].tolist():
            if decision == "threshold":
                held = 1 if r > 0.1 else -1
            elif abs(r - 0.1) > delta:
                held = 1 if r > 0.1 else -1
            elif decision == "three-way":
                held = 0
            states.append(held)
        runs = [i for i, (_, run) in enumerate(itertools.groupby(states)) for _ in run]
        assert found[i].tolist() == runs + [-1] * (found.shape[1] - n)


def test_true_rewards_of_tokens_are_the_oracles_credits(small):
    tokenizer, model, frame = small
    _, batch = next(batches(model, tokenizer, frame))
    on_every, ids = D.token_truth(tokenizer, batch, "repeat")
    at_last, _ = D.token_truth(tokenizer, batch, "none")
    assert torch.equal(ids >= 0, batch["completion_mask"].bool()) and not on_every[ids < 0].any()
    for i in range(len(ids)):
        prompt = tokenizer.decode(batch["prompt_ids"][i], skip_special_tokens=True)
        text = tokenizer.decode(batch["completion_ids"][i], skip_special_tokens=True)
        credits = [span.credit for span in oracle.parse(prompt, text)]
        assert at_last[i].sum().item() == pytest.approx(sum(credits), abs=1e-6)
        assert [on_every[i][ids[i] == s][0].item() for s in range(len(credits))] == pytest.approx(credits)
        assert all(on_every[i][ids[i] == s].unique().numel() == 1 for s in range(len(credits)))


def test_partitions_that_look_at_no_reward_are_the_books_own_segmentations(small):
    tokenizer, model, frame = small
    _, batch = next(batches(model, tokenizer, frame))
    found = D.partitions(batch, tokenizer, ngram=3, entropy_cutoff=1.0)
    real = batch["completion_mask"].bool()
    assert list(found) == ["sequence", "sentence", "ngram", "entropy", "token"]
    assert (found["sequence"][real] == 0).all() and torch.equal(found["token"][real], (real.cumsum(1) - 1)[real])
    assert torch.equal(found["ngram"][real], ((real.cumsum(1) - 1) // 3)[real])
    above = (batch["ref_entropies"] > 1.0) & real
    above[:, 0] = True
    assert torch.equal(found["entropy"][real], (above.long().cumsum(1) - 1)[real])


# --- what is measured


def planted(n=60, length=24, span=4):
    """Answers of spans of four tokens, each worth 1 or -1."""
    generator = torch.Generator().manual_seed(0)
    credits = 2.0 * torch.randint(0, 2, (n, length // span), generator=generator) - 1
    mask = torch.ones(n, length)
    spans = (torch.arange(length) // span).expand(n, length)
    zeros = torch.zeros(n, length, dtype=torch.long)
    fixed = {"sequence": zeros, "token": torch.arange(length).expand(n, length), "spans": spans}
    return credits.gather(1, spans).double(), mask, fixed


@pytest.fixture(scope="module")
def measured():
    truth, mask, fixed = planted()
    frame = D.over_noise(truth, mask, fixed, (0.2, 0.8, 3.0), torch.Generator().manual_seed(1), draws=3)
    return frame, G.summed(frame, np.random.default_rng(0))


def test_a_frame_has_a_row_for_every_answer_noise_partition_and_reading(measured):
    frame, _ = measured
    names = ["sequence", "token", *DECISIONS, "search", "spans", "optimal"]
    assert len(frame) == 60 * 3 * len(names) * 2 == len(frame.drop_duplicates(["answer", "c", "partition", "reads"]))
    assert set(frame.partition) == set(names)
    assert np.allclose(frame.cost, frame.c**2 * frame.segments)
    assert np.allclose(frame.approximation + frame.noise + frame.cross, frame.total)
    again = D.over_noise(*planted(), (0.2, 0.8, 3.0), torch.Generator().manual_seed(1), draws=3)
    pd.testing.assert_frame_equal(frame, again)


def test_by_equation_12_no_partition_is_better_than_the_optimal_one():
    truth, mask, fixed = planted()
    for c in (0.3, 1.0, 4.0):
        frame = D.measure(truth, truth, mask, fixed, c)
        frame = frame[frame.reads == "mean"].assign(predicted=lambda x: x.approximation + x.cost)
        by = frame.pivot(index="answer", columns="partition", values="predicted")
        assert (by["optimal"].to_numpy()[:, None] <= by.to_numpy() + 1e-9).all()


def test_the_noise_of_partitions_that_do_not_look_is_c2_k_and_of_adaptive_ones_more(measured):
    _, numbers = measured
    mean = numbers[numbers.reads == "mean"].set_index(["partition", "c"])
    for c in (0.2, 0.8, 3.0):
        for name in ("sequence", "token", "spans"):
            row = mean.loc[name, c]
            assert row.ratio_low - 0.02 < 1 < row.ratio_high + 0.02
    assert mean.loc["threshold", 3.0].ratio_low > 1.3, "runs of one sign select the noise that they hold"
    last = numbers[numbers.reads == "last"].set_index(["partition", "c"])
    assert last.loc["spans", 0.8].ratio == pytest.approx(4, rel=0.1), "spans have four tokens"
    assert last.loc["sequence", 0.8].ratio == pytest.approx(24, rel=0.35)


def test_the_winner_follows_the_noise_and_intervals_hold_the_numbers(measured):
    frame, numbers = measured
    paper = G.winners(frame, np.random.default_rng(0), without=("search", *D.KNOW_THE_TRUTH)).set_index("c")
    assert paper.partition[3.0] == "sequence" and paper.clear[3.0]
    assert paper.partition[0.2] in DECISIONS, "at low noise the sign of a token tells its span"
    everything = G.winners(frame, np.random.default_rng(0), without=()).set_index("c")
    assert everything.partition[0.8] == "optimal"
    totals = frame[frame.reads == "mean"].groupby(["c", "partition"]).total.sum()
    for c, row in paper.iterrows():
        assert row.better == pytest.approx(1 - totals[c, row.partition] / totals[c, row.next])
    for name in ("total", "above", "ratio"):
        assert (numbers[f"{name}_low"] <= numbers[name] + 1e-12).all()
        assert (numbers[name] <= numbers[f"{name}_high"] + 1e-12).all()
    pooled = frame.groupby(["c", "partition", "reads"])[["total", "tokens"]].sum()
    found = numbers.set_index(["c", "partition", "reads"])
    assert np.allclose(found.total, (pooled.total / pooled.tokens).loc[found.index])
    for (c, name, reads), row in found.iterrows():
        assert row.above == pytest.approx(pooled.total[c, name, reads] / pooled.total[c, "optimal", "mean"])
    shuffled = G.summed(frame.sample(frac=1, random_state=0), np.random.default_rng(0))
    pd.testing.assert_frame_equal(shuffled.reset_index(drop=True), numbers.reset_index(drop=True))


def test_a_lead_that_chance_may_give_is_not_clear():
    draw = np.random.default_rng(0)
    one = draw.uniform(1, 2, 50)
    rows = [
        {"c": c, "answer": i, "partition": name, "reads": "mean", "total": x}
        for c, other in ((0.1, draw.permutation(one) + 1e-3), (0.2, one + 0.1))
        for name, column in (("token", one), ("sequence", other))
        for i, x in enumerate(column)
    ]
    found = G.winners(pd.DataFrame(rows), np.random.default_rng(0))
    assert found.partition.tolist() == ["token", "token"] and found.clear.tolist() == [False, True]


def test_the_offset_is_in_units_of_the_noise_and_eq_13_has_none():
    truth, mask, fixed = planted()
    noisy = truth + 0.5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = D.cuts(truth, noisy, mask, fixed, c=0.5, delta=2.0)
    for decision in DECISIONS:
        offset = 0.0 if decision == "threshold" else 1.0
        assert torch.equal(found[decision], D.crossings(noisy, mask, noisy.mean(), decision, offset))
    assert not torch.equal(found["three-way"], found["threshold"])
    assert list(found) == [name for name in D.PARTITIONS if name in found], "figures and tables share one order"


def test_what_a_scorer_leaves_is_told_apart_from_noise():
    truth, mask, _ = planted(n=400)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy, found = D.calibrated(truth, 5 * (truth + 0.5 * noise) - 3, mask)
    slope = 1 / 1.25  # least squares shrinks: var / (var + c^2)
    assert found["c"] ** 2 == pytest.approx((1 - slope) ** 2 + slope**2 * 0.25, rel=0.05)
    assert found["r2"] == pytest.approx(0.8, abs=0.02) and found["constant"] == pytest.approx(1, rel=0.05)
    assert (noisy - truth)[mask.bool()].mean().abs() < 1e-9
    idle = D.calibrated(truth, noise, mask)[1]
    assert idle["r2"] < 0.01 and idle["correlation"] == pytest.approx(0.75, abs=0.05), "the error is the truth itself"


def test_without_noise_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match="noise is 0.0; give a deviation above 0"):
        D.measure(*planted()[:1] * 2, *planted()[1:], c=0.0)
    with pytest.raises(ValueError, match="delta is -1; give an offset of 0 or more"):
        D.measure(*planted()[:1] * 2, *planted()[1:], c=1.0, delta=-1)


def test_an_offset_cuts_finer_without_memory_and_coarser_with_it():
    """Appendix E's claim holds for changes between good and bad, and fails for the pieces that a threshold without
    memory cuts."""
    truth, mask, _ = planted(n=200)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame = G.offsets(truth, truth + 0.8 * noise, mask, 0.8, (0.0, 0.5, 1.0))
    found = frame.set_index(["partition", "delta"])
    for name in ("three-way", "schmitt"):
        assert found.changes[name].is_monotonic_decreasing and found.changes[name].nunique() == 3
    assert found.length["three-way"].is_monotonic_decreasing and found.length["schmitt"].is_monotonic_increasing
    assert found.xs(0.0, level="delta").error.nunique() == 1, "without an offset there is nothing to remember"
    table = G.offset_table(frame)
    assert table["offset over c"].tolist() == [0.0, 0.5, 1.0]
    assert table["error, with memory"].tolist() == found.error["schmitt"].tolist()
    assert table["tokens per segment, Eq. 17"].tolist() == found.length["three-way"].tolist()


# --- as the notebook shows it


def test_levels_of_noise_are_numbers_above_zero():
    assert G.levels(" 1.6, 0.1,0.4") == [0.1, 0.4, 1.6]
    for text in ("0.1,little", "0.1,-1", "0", "0.1,nan", "inf"):
        with pytest.raises(ValueError, match="noises: .* is no deviation; give numbers above 0"):
            G.levels(text)
    with pytest.raises(ValueError, match="noises is empty"):
        G.levels(" ,")


def test_sentences_and_table_say_what_was_measured(measured):
    frame, numbers = measured
    found = pd.DataFrame(
        {
            "c": [0.1, 0.2, 0.4],
            "partition": ["token", "token", "sequence"],
            "next": ["ngram"] * 3,
            "clear": [True, False, True],
        }
    )
    assert G.wins(found, "these") == (
        "Smallest error among these: Token at c = 0.1 to 0.2, not clearly before the next one at 0.2 (Fixed step "
        "(n-gram)); Sequence at c = 0.4."
    )
    said = G.noise_term(numbers)
    worst = numbers[(numbers.reads == "mean") & numbers.partition.isin(D.SEE_THE_NOISE)].ratio.max()
    assert f"up to {worst:.2f} for those cut from the noisy rewards" in said
    at = numbers[numbers.c == 0.8]
    table = G.table(at)
    assert list(table.partition) == [D.PARTITIONS[name] for name in at[at.reads == "mean"].partition]
    token = at[(at.reads == "mean") & (at.partition == "token")].iloc[0]
    assert table.set_index("partition")["Eq. 12's c²K"]["Token"] == pytest.approx(0.64) == token.cost
    said = G.learned(at, {"r2": 0.25, "c": 0.8, "correlation": 0.5, "constant": 1.0})
    assert "explain 25.0%" in said and "correlates by 0.50" in said


def test_figures_name_or_count_every_partition_and_mark_the_winners(measured):
    frame, numbers = measured
    best = G.winners(frame, np.random.default_rng(0)).assign(clear=[True, False, True])
    labels = {D.PARTITIONS[name] for name in set(numbers.partition)}
    figure, _ = partition_figures.over_noise({"one": (numbers, {"best": best}), "two": (numbers, {"best": best})})
    for ax in figure.axes:
        named = {" ".join(text.get_text().split()) for text in ax.texts}
        (others,) = (int(name.split()[0]) for name in named if name.endswith(" others"))
        assert len(labels & named) + others == len(labels) and "Token" in named
    marks = [line for line in figure.axes[0].lines if line.get_label().startswith("_") and len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in marks] == list(best.c)
    colours = [partition_figures.STYLE[name][0] for name in best.partition]
    assert [line.get_color() for line in marks] == colours
    assert [line.get_markerfacecolor() for line in marks] == [colours[0], "white", colours[2]]
    curves = [line for line in figure.axes[0].lines if line not in marks]
    assert [len(line.get_xdata()) for line in curves] == [3] * len(labels), "a point for each noise, means alone"
    figure, drawn = partition_figures.parts(numbers, [0.2, 3.0])
    assert set(drawn.c) == {0.2, 3.0} and {t.get_text() for t in figure.axes[0].get_yticklabels()} == labels
    figure, _ = partition_figures.noise_terms(numbers)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(partition_figures.READS.values())
    assert set(partition_figures.STYLE) == set(D.PARTITIONS)
