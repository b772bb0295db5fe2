"""What would break: a verdict on a paper's claim that its own numbers do not bear out."""

import numpy as np
import pytest
from scipy import stats

from report import claims, overview
from study.methods import METHODS
from study.stats import detectable


def run(method: str, seed: int, value: float, answers=None, curve=()) -> dict:
    final = {"true_return": value} | ({"answers": {"true_return": answers}} if answers is not None else {})
    return {"method": method, "seed": seed, "final": final, "gate": "passed", "curves": list(curve)}


def line(frame, better: str, worse: str):
    return frame[(frame.better == better) & (frame.worse == worse)].iloc[0]


def test_a_verdict_needs_a_p_value_below_5_percent_among_all_claims_that_are_tested():
    """Each of 22 claims alone would find something somewhere, whatever is true."""
    gains = {"tlcr": (1.0, 1.01, 0.99), "segment": (-1.0, -1.01, -0.98), "appo": (2.0, 1.5, 1.2)}
    runs = [run("bandit", seed, 2.0 + seed) for seed in range(3)] + [run("token", 0, 0.0)]
    runs += [run(m, seed, 2.0 + seed + x) for m, all_ in gains.items() for seed, x in enumerate(all_)]
    found = claims.tested(runs)
    p = {m: stats.ttest_1samp(x, 0).pvalue for m, x in gains.items()}
    adjusted = {"tlcr": 3 * p["tlcr"], "segment": 2 * p["segment"], "appo": p["appo"]}
    for method, verdict in {"tlcr": "holds", "segment": "opposite", "appo": "holds"}.items():
        row = line(found, method, "bandit")
        low, high = stats.t.interval(0.95, 2, np.mean(gains[method]), stats.sem(gains[method]))
        assert row.verdict == verdict and (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
        assert (row.p, row.holm) == (pytest.approx(p[method]), pytest.approx(adjusted[method]))
        wanted = [detectable(np.std(gains[method], ddof=1), 3, alpha) for alpha in (0.05, 0.05 / 3)]
        assert [row.mde, row.mde_holm] == pytest.approx(wanted)
    assert line(found, "segment", "token").verdict == "one seed" and np.isnan(line(found, "segment", "token").holm)
    assert line(found, "ars", "rs").verdict == "no record" and line(found, "ars", "rs").seeds == 0


def test_an_interval_that_is_clear_of_zero_alone_is_counted_and_open():
    gains = {"appo": (2.0, 1.5, 1.2), "tlcr": (1.0, -1.0, 0.5), "tlcr-fixed": (1.0, -1.0, 0.5)}
    runs = [run("bandit", seed, float(seed)) for seed in range(3)]
    runs += [run(m, seed, seed + x) for m, all_ in gains.items() for seed, x in enumerate(all_)]
    found = claims.tested(runs)
    row = line(found, "appo", "bandit")
    assert row.low > 0 and row.p < 0.05 < row.holm and row.verdict == "open"
    counted = "of 6 claims, 5 no record, 1 open (adjusted for 4 tests; intervals clear of zero, each alone: 1)."
    assert claims.sentence(found, "adaptive-mask") == f"adaptive-mask: {counted}"
    told = claims.evidence(found).iloc[9]
    assert (told["p"], told["p (Holm)"]) == (f"{row.p:.3f}", f"{row.holm:.3f}")
    cell = claims.side_by_side(runs, [])["settings of all"][9]
    assert cell.startswith("open: 1.57 [") and cell.endswith(f"p {row.holm:.3f}")


def test_win_rates_are_those_of_the_row_that_is_claimed_to_be_ahead():
    runs = [run("tlcr", s, 1.0, [1.0] * 9 + [0.0] * 3) for s in (0, 1)]
    runs += [run("bandit", s, 1.0, [0.0] * 12) for s in (0, 1)] + [run("segment", 0, 1.0, [-1.0] * 12)]
    found = claims.tested(runs)
    assert line(found, "tlcr", "bandit")["win rate"] == pytest.approx(100 * (9 + 3 / 2) / 12)
    assert line(found, "segment", "bandit")["win rate"] == 0
    assert np.isnan(line(found, "bandit", "bandit-synthetic")["win rate"])


def test_at_equal_kl_the_curves_decide_and_not_the_end():
    def curve(slope):
        return [{"kl": 0.5 * t, "true_return": slope * t} for t in range(12)]

    runs = [run("tlcr", s, -9.0, curve=curve(0.2 + s / 1000)) for s in range(3)]
    runs += [run("bandit", s, 9.0, curve=curve(0.1)) for s in range(3)] + [run("segment", 0, 0.0, curve=curve(0)[:2])]
    row = line(claims.tested(runs, 2.0), "tlcr", "bandit")
    assert row.verdict == "holds" and row.difference == pytest.approx(4 * 0.101, rel=0.02)
    assert line(claims.tested(runs, 2.0), "segment", "bandit").seeds == 0


def test_claims_and_systems_are_rows_and_no_records_are_no_error():
    assert {c.better for c in claims.CLAIMS} | {c.worse for c in claims.CLAIMS} <= METHODS.keys()
    assert len(set(overview.EVERY)) == len(overview.EVERY) and set(overview.EVERY) <= METHODS.keys()
    assert {c.paper for c in claims.CLAIMS} <= overview.SYSTEMS.keys()
    assert claims.evidence(claims.tested([]))["p"].isna().all()
    frame = claims.side_by_side([], [])
    assert len(frame) == len(claims.CLAIMS) and frame.iloc[:, 3:].isna().all(axis=None)


def test_seconds_are_those_of_all_stages_of_a_system():
    runs = [run("bandit", 0, 2.0) | {"stage_seconds": {"sft": 3.0, "ppo": 4.5}}]
    runs.append(run("ngram-2", 0, 2.0) | {"stage_seconds": {"sft": 3.0}})
    assert [r["seconds"] for r in overview.systems(runs)] == [7.5]


def test_a_mean_beyond_the_zoom_is_written_at_its_edge():
    runs = [run("bandit", s, 2.0 + s / 10) for s in range(3)] + [run("sentence", s, -11.8) for s in range(3)]
    figure, numbers = overview.returns(runs)
    assert [t.get_text().strip() for t in figure.axes[1].texts] == ["◂ -11.8"]
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["segment-ppo", "Bandit (sequence)", "Sentence"] and len(numbers) == 2
