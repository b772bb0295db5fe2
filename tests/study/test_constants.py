"""The constant per segment: what is measured is what was planted; edits are worth what the oracle says; a normaliser's
fit is judged by the points that it was fitted on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from densereward.reward import dense, rewards
from report import reward_figures, show
from study.measures import answer_rewards, constants, edits, few_answers, locations
from study.methods import METHODS
from study.profiles import profile
from study.run import Run
from testbed import oracle, world
from testbed.world import World

PLAIN = rewards.Normaliser("none", 0.0, 0.0, 0.0, 1.0)


def planted(constant: float, n: int = 400):
    """(scores [n, S], mask, true returns): a segment's score is its credit and a constant."""
    draw = np.random.default_rng(0)
    counts = torch.from_numpy(draw.integers(3, 13, n))
    mask = torch.arange(12)[None] < counts[:, None]
    credit = torch.from_numpy(draw.normal(size=(n, 12))) * mask
    return (credit + constant) * mask, mask, credit.sum(1).numpy()


def planted_totals(constant: float, correction: str) -> tuple[pd.DataFrame, np.ndarray]:
    scores, mask, worth = planted(constant)
    row = METHODS["centred" if correction == "centre" else "segment"]
    ids = torch.where(mask, torch.arange(12)[None], -1)  # a token per segment
    paid = dense.dense_rewards(row, scores, mask, ids, PLAIN).sum(1).numpy()
    return pd.DataFrame({"segment": paid, "segments": mask.sum(1).numpy()}), worth


# --- the wage per segment


@pytest.mark.parametrize("constant", [-0.4, 0.0, 0.7])
def test_a_planted_constant_is_the_slope_and_centring_removes_it(constant):
    totals, worth = planted_totals(constant, "none")
    found = constants.wages(totals, worth, np.random.default_rng(1)).iloc[0]
    assert found.slope * totals.segment.std() == pytest.approx(constant, abs=1e-9)
    mean = (totals.segment.sum() / totals.segments.sum()) / totals.segment.std()
    assert found["each"] == pytest.approx(mean) and found.each_low < mean < found.each_high
    good = worth >= np.quantile(worth, 0.75)
    mean = (totals.segment[good].sum() / totals.segments[good].sum()) / totals.segment.std()
    assert found.best == pytest.approx(mean) and found.best_low < mean < found.best_high
    alone = constants.wages(totals.rename(columns={"segment": "bandit"}), worth, np.random.default_rng(1)).iloc[0]
    assert "each" not in alone, "one reward per answer has no share for a segment"

    totals, worth = planted_totals(constant, "centre")
    found = constants.wages(totals, worth, np.random.default_rng(1)).iloc[0]
    assert abs(found.slope) * totals.segment.std() < 0.01, "a total that is a mean pays no segment"


def test_the_slope_is_least_squares_and_its_interval_like_the_textbooks():
    draw = np.random.default_rng(0)
    x, other = draw.normal(size=(2, 300))
    y = 2 * x - other + draw.normal(size=300)
    found, low, high = constants.slope(y, x, [], draw)
    textbook = stats.linregress(x, y)
    assert found == pytest.approx(textbook.slope)
    assert (high - low) / 2 == pytest.approx(1.96 * textbook.stderr, rel=0.2)
    X = np.column_stack([x, np.ones(300), other])
    assert constants.slope(y, x, [other], draw)[0] == pytest.approx(np.linalg.lstsq(X, y, rcond=None)[0][0])


@pytest.mark.parametrize("name", constants.VARIANTS)
def test_every_fitted_normaliser_removes_the_scorers_constant_and_no_normaliser_pays_it(name):
    scores, mask, _ = planted(0.3)
    row = METHODS[name]
    fitted = rewards.fit_normaliser(scores=scores, segment_mask=mask, **row.normaliser)
    paid = constants.shifted(answer_rewards.Payer(row, Path(), None, fitted, scores, mask))
    assert paid == pytest.approx(1.0 if name == "normaliser-none" else 0.0, abs=1e-4)


# --- edits


def some_answers(n: int = 60, parts: int = 1) -> pd.DataFrame:
    draw, w = np.random.default_rng(0), World(kinds=3, parts=parts)
    pool = world.prompts(w, "test")
    prompts = [pool[int(draw.integers(len(pool)))] for _ in range(n)]
    texts = [world.answer(oracle.ask(p), 0.7, w, draw) for p in prompts]
    return pd.DataFrame({"prompt": prompts, "text": texts})


@pytest.mark.parametrize("parts", [1, 3])
def test_an_edit_adds_one_clause_of_its_kind_and_changes_nothing_else(parts):
    """What an edit is worth must be its clause alone, or a reward is blamed for something else."""
    worth = {"new right item": 1.0, "greeting": 0.0, "off-topic remark": -0.3, "wrong item": -1.0, "repetition": -1.0}
    draw, seen = np.random.default_rng(0), set()
    for prompt, text in some_answers(parts=parts).itertuples(index=False):
        before = oracle.parse(prompt, text)
        for kind, changed in edits.one_more(prompt, text, draw).items():
            after = oracle.parse(prompt, changed)
            gained = sum(s.credit for s in after) - sum(s.credit for s in before)
            assert len(after) == len(before) + 1, (kind, changed)
            assert gained == pytest.approx(worth[kind]), (kind, text, changed)
            seen.add(kind)
    assert seen == set(edits.EDITS)


def test_a_repeated_item_is_a_row_of_repetitions_where_it_is_said_to_be():
    for prompt, text in some_answers().itertuples(index=False):
        for k, (changed, first, behind) in enumerate(edits.repeated(prompt, text, 3)):
            spans = oracle.parse(prompt, changed)
            assert spans[first].kind == "correct"
            assert [s.kind for s in spans[behind : behind + k]] == ["repetition"] * k
            assert {s.item for s in spans[behind : behind + k]} <= {spans[first].item}
            assert len(spans) == len(oracle.parse(prompt, text)) + k


def test_unfinished_answers_and_answers_without_a_right_item_are_left_alone():
    prompt, draw = "please name four fruits.", np.random.default_rng(0)
    for text in ("", "apple, pear", "saw, hammer.", "hope that helps."):
        assert edits.one_more(prompt, text, draw) == {} and edits.repeated(prompt, text, 2) == []


# --- payers


class Scorer:
    """Stands in for a token scorer: the score of a token is a function of its id."""

    def token_scores(self, input_ids):
        return (input_ids % 7).double() - 3 + 0.01 * torch.ones_like(input_ids).cumsum(1)


def test_totals_are_those_of_each_answer_alone_and_an_even_split_changes_none(small):
    tokenizer, model, frame = small
    net, names = Scorer(), ("bandit", "token", "segment", "interpolation-none", "interpolation-repeat")
    entropies = next(answer_rewards.batches(model, tokenizer, frame))[1]["ref_entropies"]
    rows = answer_rewards.rows(
        names, float(entropies[entropies > 0].median())
    )  # an untrained model is unsure everywhere
    payers = {row.name: answer_rewards.Payer(row, Path(), net, PLAIN, None, None) for row in rows}
    totals = answer_rewards.totals(payers, model, tokenizer, frame)
    alone = pd.concat([answer_rewards.totals(payers, model, tokenizer, frame.loc[[i]]) for i in frame.index])
    pd.testing.assert_frame_equal(totals, alone, atol=1e-9)
    assert np.allclose(totals.segment, totals["interpolation-none"])
    assert not np.allclose(totals.segment, totals["interpolation-repeat"])
    spans = answer_rewards.spans(payers, model, tokenizer, frame)
    assert np.allclose(spans.groupby("answer")[list(names)].sum(), totals[list(names)]), "spans partition an answer"
    assert np.allclose(spans.groupby("answer").credit.sum(), frame.true_return)


def test_changes_and_repeats_are_read_off_the_right_answers(small):
    """A payer that pays the truth must come out as the truth, in every table."""
    tokenizer, _, frame = small
    unit = frame.true_return.std()
    before = pd.DataFrame({"pays": frame.true_return, "segments": 1})
    made = edits.clauses(frame, tokenizer, 256, "additive", 0)
    after = pd.DataFrame({"pays": made.true_return, "segments": 2.0})
    found = constants.gains(before, after, made, np.random.default_rng(0)).set_index("edit")
    assert found.loc["repetition", ["mean", "low", "high"]].tolist() == pytest.approx([-1 / unit] * 3), "all alike"
    assert found["mean"]["off-topic remark"] == pytest.approx(-0.3 / unit)

    loops = edits.loops(frame, tokenizer, 256, "additive", times=3)
    after = pd.DataFrame({"pays": loops.true_return, "segments": 0})
    found = constants.further(before, after, loops, np.random.default_rng(0))
    assert found.k.tolist() == [1, 2, 3] and found["mean"].tolist() == pytest.approx([-1 / unit] * 3)

    spans, usual = ([(i, j, s.credit) for i, (p, t) in enumerate(zip(x.prompt, x.text))
                     for j, s in enumerate(oracle.parse(p, t))] for x in (loops, frame))  # fmt: skip
    looped, usual = (pd.DataFrame(x, columns=["answer", "span", "pays"]) for x in (spans, usual))
    found = constants.within(usual, looped, loops, np.random.default_rng(0)).set_index("k")["mean"]
    standard = [(credit - usual.pays.mean()) / usual.pays.std() for credit in (1.0, -1.0, -1.0, -1.0)]
    assert found.tolist() == pytest.approx(standard)


def test_a_table_of_differences_says_of_what_they_are():
    runs = [
        {
            "kind": "run",
            "method": m,
            "seed": s,
            "final": dict.fromkeys(("length", "repetition", "kl", "true_return"), x + s),
        }
        for m, x in (("segment", 9.0), ("token", 4.0))
        for s in range(2)
    ]
    found = constants.against(runs)
    heads = ["length", "repetitions", "KL to SFT", "true return"]
    assert [head.partition(" less Segment's (")[0] for head in found.columns[2:]] == heads
    assert found["true return less Segment's (credit)"].iloc[0].startswith("-5.00")


def test_sentences_follow_the_intervals():
    rows = {"segment": (0.1, 0.3), "bandit": (-0.3, -0.1), "token": (-0.1, 0.1)}
    gains = pd.DataFrame([{"method": m, "low": low, "high": high} for m, (low, high) in rows.items()])
    said = constants.signs(gains, "A repetition")
    assert said == (
        "A repetition is paid for under Segment (entropy); it is charged for under Bandit (sequence); "
        "it has an interval that holds zero under Token."
    )
    low = {"method": "segment", "k": [1, 2], "low": -2.0, "high": -1.0}
    high = {"method": "token", "k": [1, 2], "low": 1.0, "high": 2.0}
    assert constants.blocked(pd.concat(map(pd.DataFrame, (low, high)))).endswith("holds here.")
    assert constants.blocked(pd.concat(map(pd.DataFrame, (low, high | {"low": -1.0})))).endswith("does not hold here.")


def test_figures_name_every_payer_and_every_kind_of_clause():
    numbers = pd.DataFrame(
        {"method": m, "edit": e, "group": g, "mean": 0.1, "low": 0.0, "high": 0.2}
        for m in (constants.TRUTH, "segment") for e in edits.EDITS for g in ("all", "best")
    )  # fmt: skip
    figure, _ = reward_figures.clauses(numbers)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["True return", "Segment (entropy)"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(edits.EDITS)
    numbers = pd.DataFrame(
        {"measure": "within", "method": m, "k": k, "mean": 0.1, "low": 0.0, "high": 0.2}
        for m in ("segment", "segment, raw", constants.TRUTH) for k in range(3)
    )  # fmt: skip
    figure, _ = reward_figures.repeats(numbers, {"within": "paid (deviations)"})
    assert [len(ax.lines) for ax in figure.axes] == [3, 3], "the truth and zero in both, the row in one of them"


# --- the normaliser's form


def drifting(odd: list[int] = (), n: int = 600):
    """Scores whose mean and deviation are lines in log p: Mean = -.5 log p - .2, Std = .2 log p + 1."""
    draw, counts = np.random.default_rng(0), [5 + 5 * (i % 2) for i in range(n - len(odd))] + [*odd]
    mask = torch.arange(10)[None] < torch.tensor(counts)[:, None]
    log_p = rewards.location(mask).log()
    return (-0.5 * log_p - 0.2 + (0.2 * log_p + 1) * torch.from_numpy(draw.normal(size=(n, 10)))) * mask, mask


@pytest.mark.parametrize("estimator", ["huber", "ols"])
def test_locations_are_those_of_the_fit_and_a_true_form_is_found_to_hold(estimator):
    for odd in ([7, 7, 9], []):  # two answers of seven segments have locations of their own, the one of nine has none
        scores, mask = drifting(odd)
        fitted = rewards.fit_normaliser("regression", scores, mask, estimator)
        points = locations.by_location(scores, mask)
        assert (len(points), points["n"].sum()) == (fitted.locations, fitted.samples)
        if estimator == "ols":
            assert np.polyfit(points.log_p, points["mean"], 1) == pytest.approx([fitted.w_mean, fitted.b_mean])
            assert np.polyfit(points.log_p, points["std"], 1) == pytest.approx([fitted.w_std, fitted.b_std])
    form = locations.form(points, fitted)
    assert form["mean_r2_weighted"] > 0.9 and abs(form["residual"]) < 0.2
    assert form["mean_r2_weighted"] <= form["mean_in_log_p"] + 1e-9
    assert form["mean_in_p"] < form["mean_in_log_p"], "a line in p is not what was planted"
    assert form["zero"] == pytest.approx(np.exp(-fitted.b_std / fitted.w_std)) and form["floored"] == 0
    left = locations.left_over(scores, mask, rewards.fit_normaliser("global", scores, mask))
    assert left == pytest.approx({"z_mean": 0, "z_std": 1, "total": 0}, abs=1e-6)
    assert "the form holds for Mean(p)" in locations.sentence("segment", form, left)


def test_a_floor_that_binds_and_a_line_without_a_zero_are_told():
    scores, mask = drifting()
    points = locations.by_location(scores, mask)
    steep = rewards.Normaliser("regression", 0.0, 0.0, 1.0, 1.0, floor=0.1)
    assert locations.form(points, steep)["floored"] == pytest.approx((points.p < np.exp(-0.9)).mean())
    flat = locations.form(points, rewards.Normaliser("regression", 0.0, 0.0, -0.1, 1.0, floor=0.1))
    assert flat["zero"] == 0 and np.isnan(flat["zero_segments"])
    assert "would stay above 0 without a floor" in locations.sentence("segment", flat, {"z_mean": 0.0, "total": 0.0})
    shown = locations.tables({("segment", "ols"): flat})["limits"].iloc[0]
    assert shown["segments"] is None and shown["points"] == str(len(points))


# --- on whose authority


def test_smoke_is_no_evidence_once_it_has_trained_a_scorer_and_measures_more_pairs_where_it_has_not(capsys):
    run = Run(profile("smoke"))
    assert show.measured(run, run.committed / "segment").startswith("Committed")
    assert "No evidence" not in capsys.readouterr().out
    assert few_answers.measuring(run).profile.pairs > run.profile.pairs
    other = Run(profile("smoke"), model="lm")
    assert few_answers.measuring(other) == other
    assert show.measured(other, Path("runs/scorer")).startswith("Trained")
    assert "HTML object" in capsys.readouterr().out
