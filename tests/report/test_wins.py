"""Win rates are those that counting by hand gives, and add up; what is drawn is what was counted."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from report import preference_figures, wins
from study.methods import METHODS
from test_figures import contrast

NAMES = ("sft", "bandit", "segment", "tlcr")


def made(returns: dict[str, list[list[float]]]) -> list[dict]:
    """Records of method -> seeds -> true return of each answer."""
    return [
        {"method": method, "seed": seed, "final": {"answers": {"true_return": row, "length": [1] * len(row)}}}
        for method, seeds in returns.items()
        for seed, row in enumerate(seeds)
    ]


@st.composite
def tournaments(draw):
    """Two to four methods, one to three seeds, a few prompts, returns with many ties."""
    methods = draw(st.integers(2, 4))
    seeds, prompts = draw(st.integers(1, 3)), draw(st.integers(1, 14))
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=prompts, max_size=prompts)
    rows = st.lists(row, min_size=seeds, max_size=seeds)
    return {name: draw(rows) for name in NAMES[:methods]}


@settings(max_examples=30, deadline=None)
@given(tournaments())
def test_win_rates_are_what_counting_gives_and_add_up(returns):
    found = wins.matrix(made(returns)).set_index(["method", "other"])
    assert len(found) == len(returns) * (len(returns) - 1)
    for a, b in itertools.permutations(returns, 2):
        counts = {"win": 0, "tie": 0, "loss": 0}
        for seed in range(len(returns[a])):
            for x, y in zip(returns[a][seed], returns[b][seed], strict=True):
                counts["win" if x > y else "loss" if x < y else "tie"] += 1
        n = sum(counts.values())
        row, mirror = found.loc[(a, b)], found.loc[(b, a)]
        for name, count in counts.items():
            assert row[name] == pytest.approx(count / n)
        assert row.win + row.tie + row.loss == pytest.approx(1)
        assert (row.win, row.tie) == pytest.approx((mirror.loss, mirror.tie))
        assert row.rate + mirror.rate == pytest.approx(1)
        assert row.lowest - 1e-12 <= row.rate <= row.highest + 1e-12
        assert row.lowest + mirror.highest == pytest.approx(1)
        if row.prompts >= 10:
            assert 0 <= row.low <= row.high <= 1
            assert row.low + mirror.high == pytest.approx(1), "an interval that depends on who is named first"
        else:
            assert np.isnan(row.low) and np.isnan(row.high)


@settings(max_examples=30, deadline=None)
@given(tournaments())
def test_shares_of_the_most_preferred_are_what_counting_gives_and_add_up(returns):
    found = wins.most_preferred(made(returns)).set_index("method")
    seeds, prompts = len(returns["sft"]), len(returns["sft"][0])
    counts = dict.fromkeys(returns, 0.0)
    for seed, prompt in itertools.product(range(seeds), range(prompts)):
        best = max(rows[seed][prompt] for rows in returns.values())
        winners = [name for name, rows in returns.items() if rows[seed][prompt] == best]
        for name in winners:
            counts[name] += 1 / len(winners)
    for name, count in counts.items():
        assert found.share[name] == pytest.approx(count / seeds / prompts)
    assert found.share.sum() == pytest.approx(1)


def test_the_interval_is_over_prompts_with_their_seeds():
    """Seeds of a prompt are no further prompts: an answer repeated in three seeds must not narrow the interval."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 200)).tolist()
    one = wins.against(made({"sft": [b], "tlcr": [a]}), "sft").iloc[0]
    three = wins.against(made({"sft": [b] * 3, "tlcr": [a] * 3}), "sft").iloc[0]
    assert (one.low, one.high) == pytest.approx((three.low, three.high))
    half = 1.96 * (one.rate * (1 - one.rate) / 200) ** 0.5
    assert one.high - one.low == pytest.approx(2 * half, rel=0.15), "that of a share of 200 prompts"


def test_only_seeds_that_both_have_are_compared():
    """Seed 1 of one method has its own preference data: it is no pair for seed 0 of the other."""
    found = wins.against(made({"sft": [[0.0] * 12], "tlcr": [[1.0] * 12, [-1.0] * 12]}), "sft").iloc[0]
    assert (found.seeds, found.rate) == (1, 1.0)
    runs = made({"sft": [[0.0]], "tlcr": [[1.0]]})
    runs[1]["seed"] = 5
    assert wins.matrix(runs).empty and wins.most_preferred(runs).empty


def test_records_without_answers_or_truth_are_left_out():
    runs = [*made({"sft": [[0.0] * 12], "tlcr": [[1.0] * 12]}), {"method": "dpo", "seed": 0, "final": {"length": 3.0}}]
    assert set(wins.matrix(runs).method) == {"sft", "tlcr"}
    assert wins.matrix([]).empty and wins.most_preferred([]).empty


@pytest.mark.parametrize(
    "runs, says",
    [
        (made({"sft": [[0.0] * 3], "tlcr": [[1.0] * 4]}), r"answers to \[3, 4\] prompts"),
        (2 * made({"sft": [[0.0] * 3]}), "sft has two records of seed 0"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(runs, says):
    with pytest.raises(ValueError, match=says):
        wins.matrix(runs)


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    draw = np.random.default_rng(1)
    return made({name: draw.integers(-3, 4, (2, 30)).tolist() for name in NAMES})


def test_the_matrix_shows_every_rate_once(runs):
    numbers = wins.matrix(runs)
    figure, shown = preference_figures.win_matrix(numbers)
    figure.canvas.draw()
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(cells) == sorted(f"{100 * rate:.0f}" for rate in numbers.rate)
    assert len(shown) == len(numbers)
    ticks = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert ticks == [METHODS[name].label for name in NAMES]


def test_every_number_of_the_matrix_is_legible_on_its_shade():
    rates = np.linspace(0, 1, 26)
    numbers = pd.DataFrame([{"method": a, "other": b} for a in [*METHODS][:6] for b in [*METHODS][:6] if a != b][:26])
    figure, _ = preference_figures.win_matrix(numbers.assign(rate=rates))
    shades = figure.axes[0].images[0]
    for text in figure.axes[0].texts:
        column, row = text.get_position()
        shade = shades.to_rgba(shades.get_array()[row, column])[:3]
        ink = np.array(to_rgb(text.get_color()))
        assert contrast(255 * ink, 255 * np.array(shade)) >= 4, text.get_text()


def test_bars_against_one_method_are_wins_ties_losses_and_the_printed_rate(runs):
    numbers = wins.matrix(runs).query("method == 'tlcr'")
    figure, shown = preference_figures.win_bars(numbers, {"sft": 84.89})
    figure.canvas.draw()
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(3, -1)
    assert widths.sum(0) == pytest.approx([100] * 3)
    assert widths[0] == pytest.approx(100 * numbers.win.to_numpy())
    assert "%" in figure.axes[0].get_xlabel()
    assert list(shown.printed.dropna()) == [84.89]


def test_the_most_preferred_are_drawn_with_their_intervals(runs):
    numbers = wins.most_preferred(runs)
    figure, shown = preference_figures.most_preferred(numbers, {"tlcr": 45.23})
    figure.canvas.draw()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [METHODS[name].label for name in NAMES]
    assert len(shown) == 4 and "%" in figure.axes[0].get_xlabel()
