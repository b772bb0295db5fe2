"""What would break: a measurement said to foretell the end that does not, or the reverse."""

import numpy as np
import pytest
from scipy.stats import bootstrap, spearmanr

from report import foretells
from study.methods import LEARNED, METHODS

ROWS = [name for name, row in METHODS.items() if row.scorer in LEARNED and row.trainer == "ppo"][:12]


def runs(fidelity, collapsed: int = 0) -> list[dict]:
    """Two seeds of each row, which ends at its number; `fidelity`(i) of row i, the first `collapsed` far below SFT."""
    found = [{"kind": "run", "method": "sft", "seed": s, "final": {"true_return": 0.0}} for s in (0, 1)]
    for i, name in enumerate(ROWS):
        for s in (0, 1):
            end = {"true_return": (1.0 + i if i >= collapsed else -20.0 + i) + 0.01 * s}
            credit = {"advantages_credit_pearson": fidelity(i) + 0.001 * s, "causal_share": 1.0}
            found.append({"kind": "run", "method": name, "seed": s, "final": end, "credit": credit})
    return found


def line(found, words: str):
    return found.set_index("measured before PPO").loc[words]


def test_what_orders_the_rows_foretells_and_what_reverses_them_foretells_the_opposite():
    for sign in (1, -1):
        one = line(foretells.table(runs(lambda i, sign=sign: sign * i / 20)), "advantages agree with credit")
        assert one["all learned rows"] == pytest.approx(sign) and one["rows, all learned rows"] == 12
        assert sign * one["all learned rows low"] > 0.8 and sign * one["all learned rows high"] > 0.8


def test_noise_and_constants_foretell_nothing():
    noise = np.random.default_rng(3).normal(size=12)
    found = foretells.table(runs(lambda i: noise[i]))
    one = line(found, "advantages agree with credit")
    assert one["all learned rows low"] < 0 < one["all learned rows high"]
    assert np.isnan(line(found, "pay that comes in time")["all learned rows"]), "a constant"
    assert line(found, "agreement with held-out labels")["rows, all learned rows"] == 0, "not measured here"


def test_rows_that_collapse_are_left_out_of_the_second_column():
    one = line(foretells.table(runs(lambda i: -i if i < 3 else i, collapsed=3)), "advantages agree with credit")
    assert one["rows, those above SFT"] == 9 and one["those above SFT"] == pytest.approx(1)
    assert one["all learned rows"] < 1


def test_the_interval_is_that_of_a_bootstrap_over_rows():
    draw = np.random.default_rng(0)
    x = np.arange(12) + 4 * draw.normal(size=12)
    one = line(foretells.table(runs(lambda i: x[i])), "advantages agree with credit")
    ends = np.arange(12.0)
    told = bootstrap((x, ends), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False,
                     n_resamples=2_000, method="percentile", random_state=draw).confidence_interval  # fmt: skip
    assert (one["all learned rows low"], one["all learned rows high"]) == pytest.approx(tuple(told), abs=0.08)


def test_what_a_segment_earns_is_set_against_where_its_own_row_ends_seed_by_seed():
    earned = [0.3, 0.1, 0.4, 0.2, 0.6, -0.5, 0.9]
    wages = [
        {"seed": s, "earned": {"token": [x, x - 0.01, x + 0.01], "segment": [1, 0.9, 1.1]}}
        for s, x in enumerate(earned)
    ]
    ends = [{"kind": "run", "method": "token", "seed": s, "final": {"true_return": -x}} for s, x in enumerate(earned)]
    (token,) = foretells.by_wage(wages, ends[:6]).to_dict("records")
    assert token["seeds"] == 6 and token["seeds above zero"] == 5, (
        "a seed without a run, and a row without one, are left out"
    )
    assert token["correlation with the end"] == pytest.approx(-1) and token["p"] == "<0.001"
    assert foretells.by_wage(wages, ends[:5])["correlation with the end"].isna().all(), "too few seeds"
