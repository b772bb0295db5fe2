"""What would break: a verdict that its own numbers do not bear out, or a claim that no paper makes."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from report import claims, ledger, overview, published_rows
from report.ledger import CLAIMS, METRICS, Claim
from study.methods import METHODS
from study.records import ROOT, read_records
from study.stats import detectable, holm

PAPER = "tlcr"
LABELS = ("Segment (entropy)", "Bandit (sequence)")


def run(method: str, seed: int, value: float, answers=None, curve=(), **parts) -> dict:
    final = {"true_return": value} | ({"answers": {"true_return": answers}} if answers is not None else {})
    return {"method": method, "seed": seed, "final": final, "gate": "passed", "curves": list(curve)} | parts


def pair(better: str, worse: str, gaps, **parts) -> list[dict]:
    """Runs of two rows whose returns differ by `gaps`, one a seed."""
    return [run(worse, s, float(s)) for s in range(len(gaps))] + [run(better, s, s + x) for s, x in enumerate(gaps)]


def claim(better: str, worse: str | None = None, **fields) -> Claim:
    given = {"paper": PAPER, "place": "Table 1", "says": "it is ahead", "threshold": 0.3}
    return Claim(**given | {"better": better, "worse": worse} | fields)


def line(frame, better: str, worse: str, metric: str = "at_end"):
    return frame[(frame.better == better) & (frame.worse == worse) & (frame.metric == metric)].iloc[0]


TIGHT = (1.0, 1.01, 0.99, 1.0)
LEVEL = (0.01, -0.01, 0.0, 0.005)
WIDE = (2.0, -1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("gaps", "predicts", "verdict"),
    [
        (TIGHT, "above", "held"),
        (TIGHT, "below", "opposite"),
        (TIGHT, "alike", "opposite"),
        (TIGHT, "not above", "opposite"),
        (LEVEL, "above", "alike"),
        (LEVEL, "alike", "held"),
        (LEVEL, "not above", "held"),
        ([-x for x in TIGHT], "above", "opposite"),
        ([-x for x in TIGHT], "below", "held"),
        ([-x for x in TIGHT], "not above", "held"),
        (WIDE, "above", "open (too few seeds)"),
        (WIDE, "alike", "open (too few seeds)"),
        ([0.05 * x for x in (2.0, -3.0, 1.5, 2.5)], "above", "alike"),
        ((1.0,), "above", "one seed"),
        ((), "above", "no record"),
    ],
)
def test_each_verdict_is_that_of_its_numbers(gaps, predicts, verdict):
    found = claims.tested(pair("tlcr", "bandit", gaps), claims=(claim("tlcr", "bandit", predicts=predicts),))
    assert found.verdict.item() == verdict and found.seeds.item() == len(gaps)


def test_open_says_too_few_seeds_only_where_what_matters_could_have_been_missed():
    gaps = (1.2, 0.1, 0.9, 0.4, -0.1)
    seen = detectable(np.std(gaps, ddof=1), 5)
    for threshold, verdict in ((0.99 * seen, "open (too few seeds)"), (1.01 * seen, "open")):
        told = (claim("tlcr", "bandit", threshold=threshold),)
        found = claims.tested(pair("tlcr", "bandit", gaps), claims=told)
        assert (found.verdict.item(), found.mde_holm.item()) == (verdict, pytest.approx(seen))


def test_what_nothing_here_can_test_says_what_is_lacking():
    told = (claim(None, lacks="row", why="no such row"), claim(None, lacks="measure", why="no such measure"))
    frame = claims.tested([run("tlcr", 0, 1.0)], claims=told)
    assert list(frame.verdict) == ["no row", "no measure"]
    assert list(claims.untestable(frame).why) == ["no such row", "no such measure"]
    assert claims.evidence(frame).empty


def test_what_does_not_stay_where_all_papers_are_adjusted_at_once_is_named():
    gains = {"tlcr": (1.0, 1.3, 0.7), "segment": (-1.0, -1.3, -0.7), "token": (1.0, 1.02, 0.99)}
    runs = [run("bandit", s, 2.0 + s) for s in range(3)]
    runs += [run(m, s, 2.0 + s + x) for m, gaps in gains.items() for s, x in enumerate(gaps)]
    papers = dict(zip(gains, ("tlcr", "segment-ppo", "adaptive-mask")))
    told = [claim(m, "bandit", paper=paper, says=f"{m} is ahead") for m, paper in papers.items()]
    found = claims.tested(runs, claims=tuple(told))
    assert found.p.iloc[:2].between(0.025, 0.05).all(), "alone below .05, of three tests not"
    assert found.verdict.tolist() == ["held", "opposite", "held"]
    said = claims.at_once(found)
    assert "over all 3 tested claims at once, 1 of the 3 verdicts" in said
    assert said.endswith("stay; open then: tlcr is ahead (tlcr); segment is ahead (segment-ppo).")


def test_p_values_are_adjusted_within_a_paper_and_not_across():
    gains = {"tlcr": (1.0, 1.02, 0.99), "tlcr-fixed": (2.0, 1.5, 1.2), "segment": (-1.0, -1.01, -0.98)}
    runs = [run("bandit", s, 2.0 + s) for s in range(3)]
    runs += [run(m, s, 2.0 + s + x) for m, gaps in gains.items() for s, x in enumerate(gaps)]
    told = [claim(m, "bandit", paper="segment-ppo" if m == "segment" else PAPER) for m in gains]
    found = claims.tested(runs, claims=tuple(told)).set_index("better")
    p = {m: stats.ttest_1samp(x, 0).pvalue for m, x in gains.items()}
    assert list(found.p) == pytest.approx(list(p.values()))
    assert list(found.holm) == pytest.approx([*holm([p["tlcr"], p["tlcr-fixed"]]), p["segment"]])
    for method, alone in {"tlcr": 2, "tlcr-fixed": 2, "segment": 1}.items():
        low, high = stats.t.interval(0.95, 2, np.mean(gains[method]), stats.sem(gains[method]))
        row, sd = found.loc[method], np.std(gains[method], ddof=1)
        assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
        assert [row.mde, row.mde_holm] == pytest.approx([detectable(sd, 3, a) for a in (0.05, 0.05 / alone)])


def test_metrics_are_read_where_records_hold_them():
    curve = [{"kl": 0.5 * t, "true_return": 0.1 * t, "responses": 64} for t in range(12)]
    parts = {"params": {"profile": {"rollouts": 64}}, "curve": curve, "reward_model": {"repeat_test": 0.9}}
    answers = [1.0] * 9 + [0.0] * 3
    runs = [run("tlcr", s, 1.0, answers, **parts) for s in (0, 1)]
    runs += [run(m, s, 0.0, [0.5] * 12, **parts) for m in ("bandit", "sft") for s in (0, 1)]
    runs[0]["final"]["length"] = runs[2]["final"]["length"] = 7
    told = {
        "win_rate": (claim("tlcr", "bandit", level=50), 75 - 50, 2),
        "win_rate_over_sft": (claim("tlcr", "bandit"), 75 - 50, 2),
        "reward_model.repeat_test": (claim("tlcr", level=0.5), 0.4, 2),
        "final.length": (claim("tlcr", "bandit"), 0.0, 1),
        "area": (claim("tlcr", level=0.0), np.mean([row["true_return"] for row in curve]), 2),
        "at_kl": (claim("tlcr", level=0.0), 0.4, 2),
    }
    found = claims.tested(runs, claims=tuple(replace(c, metric=metric) for metric, (c, _, _) in told.items()))
    assert list(found.difference) == pytest.approx([x for _, x, _ in told.values()])
    assert list(found.seeds) == [n for *_, n in told.values()]


def test_at_equal_kl_the_curves_decide_and_not_the_end():
    def curve(slope):
        return [{"kl": 0.5 * t, "true_return": slope * t} for t in range(12)]

    told = (claim("tlcr", "bandit"), claim("segment", "bandit"), claim("tlcr", "bandit", metric="final.length"))
    runs = [run("tlcr", s, -9.0, curve=curve(0.2 + s / 1000)) for s in range(3)]
    runs += [run("bandit", s, 9.0, curve=curve(0.1)) for s in range(3)] + [run("segment", 0, 0.0, curve=curve(0)[:2])]
    found = claims.tested(runs, 2.0, told)
    assert list(found.verdict) == ["held", "no record"] and found.difference[0] == pytest.approx(4 * 0.101, rel=0.02)


def test_a_row_that_never_gets_to_the_level_is_later_and_never_alike():
    """Left out, the row that collapses on every seed would have no record, or be the fastest."""

    params = {"profile": {"rollouts": 16}}

    def runs(method, *levels):
        curves = [[{"true_return": x, "kl": 0.0, "responses": 16}] * 8 for x in levels]
        return [run(method, s, 0.0, curve=curve, params=params) for s, curve in enumerate(curves)]

    told = (claim("segment", "bandit", metric="rollouts_to", predicts="below", threshold=256),)
    collapsed = runs("segment", 0, 0, 0, 0)
    found = claims.tested(runs("bandit", 9, 9, 9, 0) + collapsed, claims=told).iloc[0]
    assert (found.seeds, found.difference) == (4, (3 * (8 * 16 + 1 - 3 * 16)) / 4)
    assert found.verdict.startswith("open"), "the difference is a lower bound: below the threshold says nothing"
    some = [[{"true_return": 9.0 * (t > late), "kl": 0.0, "responses": 16} for t in range(8)] for late in (0, 1, 0, 1)]
    some = [run("bandit", s, 0.0, curve=curve, params=params) for s, curve in enumerate(some)]
    assert claims.tested(some + collapsed, claims=told).verdict.item() == "opposite"


def test_what_pages_show_is_of_the_same_lines():
    gaps = (2.0, 1.5, 1.0)
    runs = pair("appo", "bandit", gaps) + [run("sft", s, x) for s, x in enumerate((0.0, 5.0, -3.0))]
    frame = claims.tested(runs)
    row = line(frame, "appo", "bandit")
    assert row.low > 0 and row.p < 0.05 < row.holm and row.verdict == "open (too few seeds)"
    told = claims.evidence(frame)
    told = told[(told.paper == "adaptive-mask") & (told.says == "a mask helps PPO")].iloc[0]
    assert (told["p, alone"], told["p (Holm)"]) == (f"{row.p:.3f}", f"{row.holm:.3f}")
    assert told.prediction == "true return: APPO above Bandit (sequence)" and told["matters from"] == 0.3
    both = claims.side_by_side({"": frame, " nowhere": claims.tested([])})
    cells = both[both.says == "a mask helps PPO"][["verdict", "difference (credit)", "p"]]
    assert cells.to_numpy().tolist() == [["open", f"1.50 ± {row.high - 1.5:.2f}", f"{row.holm:.3f}"]]
    assert not [column for column in both if "nowhere" in column]
    assert len(both) == len(claims.of_returns(frame)) == len(claims.win_rates(runs))
    assert "0 held and 0 came out opposite; the other " in claims.sentence(frame, "adaptive-mask")


def test_what_is_decided_and_what_was_run_are_counted_from_records():
    told = (claim("tlcr", "bandit"), claim("tlcr", "sft"), claim("tlcr", "dpo"))
    runs = pair("tlcr", "bandit", TIGHT) + [run("sft", seed, 9.0 * seed) for seed in range(2)]
    found = claims.decided(claims.tested(runs, claims=told))
    assert list(found.verdict) == ["held"] and list(found.seeds) == [4]
    assert "3 have records, each on 2 to 4 seeds." in claims.ran(runs, PAPER)
    assert "0 have records." in claims.ran([], PAPER)


def test_win_rates_are_those_of_the_row_that_is_claimed_to_be_ahead():
    runs = [run("tlcr", s, 1.0, [1.0] * 9 + [0.0] * 3) for s in (0, 1)]
    runs += [run("bandit", s, 1.0, [0.0] * 12) for s in (0, 1)] + [run("segment", 0, 1.0, [-1.0] * 12)]
    found = claims.win_rates(runs).assign(metric="at_end")
    rate = "win rate (%)"
    assert line(found, "tlcr", "bandit")[rate] == pytest.approx(100 * (9 + 3 / 2) / 12)
    assert list(line(found, "segment", "bandit")[["row", "against", rate]]) == [*LABELS, 0]
    assert np.isnan(line(found, "bandit", "bandit-synthetic")[rate])


@pytest.mark.parametrize("profile", ["brief", "small", "cpu", "cpu-0.1", None])
def test_verdicts_counted_by_paper_add_up(profile):
    runs = [] if profile is None else read_records(ROOT / "data" / "results" / profile / "runs.jsonl")
    newest = {(r["method"], r["seed"]): r for r in runs if r["kind"] == "run" and r["dataset"] == "testbed"}
    frame = claims.tested(list(newest.values()))
    found = claims.counts(frame).set_index("verdict")
    assert (found.drop(columns="all").sum(axis=1) == found["all"]).all()
    assert (found.iloc[:-1].sum() == found.loc["claims"]).all() and found.loc["claims", "all"] == len(CLAIMS)
    total, *parts = map(int, re.findall(r"\b\d+\b", claims.headline(frame)))
    assert total == len(CLAIMS) == sum(parts), "what a reader adds up"
    assert len(claims.evidence(frame)) + len(claims.untestable(frame)) == len(CLAIMS)


def test_the_ledger_is_whole_and_each_claim_stands_once():
    assert len(CLAIMS) >= 45 and {c.paper for c in CLAIMS} == set(claims.PAPERS) <= overview.SYSTEMS.keys()
    assert all(c.place and c.says and c.threshold > 0 for c in CLAIMS)
    for c in CLAIMS:
        assert c.lacks or {c.better, c.worse or c.better} <= METHODS.keys()
        assert c.metric != "win_rate" or (c.worse and c.level == 50)
    keys = [(c.paper, c.better, c.worse, c.level, c.metric) for c in CLAIMS if not c.lacks]
    assert len(set(keys)) == len(keys) and len({c.says for c in CLAIMS}) == len(CLAIMS)
    leans = [c.says for c in CLAIMS if re.match("(so|as|it|they|and|more)\\b", c.says)]
    assert not leans, "a claim that the line above explains says nothing on a phone or in a search"
    assert {c.metric for c in CLAIMS} <= METRICS.keys()


def test_every_dotted_metric_is_in_a_committed_record():
    folder = ROOT / "data" / "results"
    runs = read_records(folder / "cpu" / "runs.jsonl") + claims.joined(read_records(folder / "brief" / "runs.jsonl"))
    for name in (name for name in METRICS if "." in name):
        assert any(claims._read(r, name, 2.0) is not None for r in runs), name


def test_claims_from_a_table_are_what_the_table_prints():
    """Of returns by the column that we set ours by, of lengths by the table's own."""
    columns = {"at_end": published_rows.MAIN, "at_length": published_rows.MAIN, "final.length": published_rows.LENGTH}
    checked = 0
    for c in (c for c in CLAIMS if c.place.startswith("Table") and not c.lacks):
        table = int(c.place.removeprefix("Table "))
        column = columns[c.metric][c.paper].get(table)
        if table == 3:  # prints two numbers in a cell
            continue
        cells, rows = published_rows.printed(table, c.paper)[column], published_rows.ROWS[c.paper][table]
        one, other = ([float(cells[row]) for row in rows if rows[row] == m] for m in (c.better, c.worse))
        assert one and [x > y for x, y in zip(one, other)] == [c.predicts == "above"] * len(other), c
        checked += 1
    assert checked > 40


GOOD = "{place: Table 1, says: it is ahead, better: tlcr, worse: bandit}"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (GOOD.replace("worse: bandit", "worse: bandits"), "worse is 'bandits'; give a row of study/methods.py"),
        (GOOD.replace("Table 1", "somewhere"), "place is 'somewhere'; give where the paper says it"),
        ("{says: it is ahead, better: tlcr, worse: bandit}", "claim lacks place; give where"),
        (GOOD.replace("it is ahead", "''"), "says is ''; give text"),
        (GOOD.replace("}", ", metric: final.lenght}"), "metric is 'final.lenght'; give one of at_end"),
        (GOOD.replace("}", ", predicts: better}"), "predicts is 'better'; give above, below, alike or not above"),
        (GOOD.replace("}", ", threshold: 0}"), "threshold is 0; give a number above 0"),
        (GOOD.replace("}", ", verdict: held}"), "claim has no field 'verdict'; it has paper, place"),
        (GOOD.replace(", worse: bandit", ""), "it compares nothing; give better, and worse or level"),
        (GOOD.replace("}", ", lacks: row}"), "it lacks what would test it; say why, and name no row"),
        ("a claim", "'a claim' is no entry; give fields in braces"),
    ],
)
def test_a_bad_entry_is_one_line_that_names_it_and_the_mend(tmp_path, entry, said):
    file = tmp_path / "claims.yml"
    metrics = "metrics:\n  at_end: {words: true return, unit: credit, matters: 0.3}\n"
    file.write_text(f"{metrics}claims:\n  tlcr:\n  - {GOOD}\n  - {entry}\n")
    with pytest.raises(ValueError) as raised:
        ledger.load(file)
    assert str(raised.value).startswith(f"{file}: tlcr, claim 2: {said}") and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "claims: [", "metrics: {}\nclaims: 3\n", "metrics: {}\n"])
def test_a_file_that_is_no_ledger_is_one_line(tmp_path, text):
    file = tmp_path / "claims.yml"
    file.write_text(text)
    with pytest.raises(ValueError, match="it holds metrics, and claims by paper") as raised:
        ledger.load(file)
    assert "\n" not in str(raised.value)


def test_a_metric_that_no_record_could_hold_is_refused(tmp_path):
    file = tmp_path / "claims.yml"
    file.write_text("metrics:\n  at_the_end: {words: return, unit: credit, matters: 1}\nclaims: {}\n")
    with pytest.raises(ValueError, match="metric at_the_end: name is 'at_the_end'; give a dotted name in final"):
        ledger.load(file)


def test_rows_of_the_overview_are_rows():
    assert len(set(overview.EVERY)) == len(overview.EVERY) and set(overview.EVERY) <= METHODS.keys()


def test_seconds_are_those_of_all_stages_of_a_system():
    runs = [run("bandit", 0, 2.0) | {"stage_seconds": {"sft": 3.0, "ppo": 4.5}}]
    runs.append(run("ngram-2", 0, 2.0) | {"stage_seconds": {"sft": 3.0}})
    assert [r["seconds"] for r in overview.systems(runs)] == [7.5]


def test_a_mean_beyond_the_zoom_is_written_at_its_edge():
    runs = [run("bandit", s, 2.0 + s / 10) for s in range(3)] + [run("sentence", s, -11.8) for s in range(3)]
    figure, numbers = overview.returns(runs)
    assert [t.get_text().strip() for t in figure.axes[1].texts] == ["◂ −11.8"]
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["segment-ppo", "Bandit (sequence)", "Sentence"] and len(numbers) == 2
