"""What would break: an expectation of a row that there is not, a row of which nothing was foretold, or a verdict that
its own interval does not bear out."""

import pandas as pd
import pytest

from report import foretold
from study.methods import METHODS
from study.sweeps import ROOM, SPANS, UNWHITENED, WHOLE
from test_figures import record


def runs(**ends) -> list[dict]:
    """Runs that ended at these true returns, a list over seeds for each row."""
    return [
        {"kind": "run", "method": m.replace("_", "-"), "seed": s, "final": {"true_return": float(x)}}
        for m, values in ends.items()
        for s, x in enumerate(values)
    ]


def lines(*told) -> pd.DataFrame:
    return pd.DataFrame([("a part", *x) for x in told], columns=["about", "method", "says", "other"])


def test_every_row_has_its_expectation_and_none_stands_twice():
    found = foretold.expected()
    assert {*found.method, *found.other} == set(METHODS), "a row is written down before it is run"
    assert not found.duplicated(["method", "other"]).any()


@pytest.mark.parametrize(
    ("gap", "says", "verdict"),
    [
        (1.0, "ahead", "came"),
        (1.0, "behind", "opposite"),
        (1.0, "level", "opposite"),
        (-1.0, "behind", "came"),
        (-1.0, "ahead", "opposite"),
        (0.0, "level", "came"),
        (0.0, "ahead", "open"),
        (0.0, "behind", "open"),
    ],
)
def test_a_verdict_follows_from_the_interval(gap, says, verdict):
    told = runs(segment=[3 + gap, 3.1 + gap, 2.9 + gap], bandit=[3.01, 3.09, 2.91])
    (found,) = foretold.verdicts(told, lines(("segment", says, "bandit"))).itertuples()
    assert found.verdict == verdict and found.seeds == 3 and found.low < found.difference < found.high
    assert found.difference == pytest.approx(gap, abs=0.05)


def test_spread_is_pooled_over_a_part_and_other_parts_leave_it_alone():
    told = runs(segment=[3, 4, 5], token=[3, 3, 3], bandit=[2, 2, 2], tlcr=[-20, 0, 9])
    both = lines(("segment", "ahead", "bandit"), ("token", "ahead", "bandit"))
    alone, joined = (foretold.verdicts(told, x).set_index("method") for x in (both.iloc[1:], both))
    assert joined.low["token"] < 0.99 < alone.low["token"], "a row without spread takes that of its part"
    apart = pd.concat([both, lines(("tlcr", "ahead", "bandit")).assign(about="another")], ignore_index=True)
    pd.testing.assert_frame_equal(foretold.verdicts(told, apart).iloc[:2].set_index("method"), joined)


def test_one_seed_decides_nothing_whatever_the_spread_of_other_lines():
    told = runs(segment=[9], token=[3, 3.01], bandit=[2, 2])
    found = foretold.verdicts(told, lines(("segment", "ahead", "bandit"), ("token", "ahead", "bandit")))
    assert dict(zip(found.method, found.verdict)) == {"segment": "open", "token": "came"}


def test_rows_without_a_seed_in_common_are_left_out_and_no_record_is_an_empty_table():
    told = lines(("segment", "ahead", "bandit"), ("token", "behind", "bandit"))
    found = foretold.verdicts(runs(segment=[1, 2], bandit=[0, 0]), told)
    assert list(found.method) == ["segment"] and foretold.counts(found).set_index("about").lines["all"] == 1
    none = foretold.verdicts([], told)
    assert none.empty and foretold.table(none).empty
    assert foretold.table(found).foretold.tolist() == ["Segment (entropy) ahead of Bandit (sequence)"]


def test_the_second_file_is_held_against_new_seeds_another_model_and_a_short_reach_each_against_its_own():
    def ended(name: str, ends: list[float], **changes) -> list[dict]:
        made = [record(name, seed, changes=changes) for seed in range(len(ends))]
        return [r | {"final": {"true_return": x}} for r, x in zip(made, ends)]

    old = (
        ended("tlcr", [9, 9, 9, 1.0, 1.1, 0.9])
        + ended("bandit", [0, 0, 0, 2.0, 2.1, 1.9])
        + ended("token", [5] * 3)
        + ended("tlcr-clauses", [5])
        + ended("segment", [5, 5, 5, 1.0, 1.1, 0.9])
        + ended("interpolation-none", [9, 9, 9, 0.5, 0.6, 0.4])
        + ended("random-rewards", [1.2])
        + ended("random-rewards", [1.1], kl_coef=0.5)
    )
    other = ended("tlcr", [3, 3], sft_rows=15_000) + ended("token", [1.0, 1.1], sft_rows=15_000)
    found = ended("tlcr", [9.5, 9.6, 9.4, 1.5, 1.6, 1.4], lam=0.8) + ended("oracle-dense", [4, 4], lam=0.95)
    ends = {"bandit": [5.0, 5.1], "token": [3.0, 3.1], "tlcr-clauses": [4.0, 4.1]}
    longer = [x for spans in SPANS[1:] for name in ends for x in ended(name, ends[name], **spans)]
    fewer = ended("token", [4.5, 4.6, 4.4], pairs=1_000) + ended("bandit", [0, 0, 0], pairs=1_000)
    whole = ended("bandit", [2.0, 2.1], **WHOLE) + ended("sft", [1.0, 1.0], **WHOLE) + ended("sft", [1.0])
    own = [{**r, "params": {**r["params"], "tuned": True}} for r in ended("token", [5.5, 5.6, 5.4], kl_coef=0.5)]
    own += [{**r, "params": {**r["params"], "tuned": True}} for r in ended("bandit", [5.0, 5.1, 4.9], kl_coef=0.1)]
    room = ended("token", [1.0, 1.1], **ROOM) + ended("bandit", [2.0, 2.1], **ROOM)
    room += ended("random-rewards", [0.8], **ROOM) + ended("random-rewards", [0.9], **UNWHITENED)
    found += ended("oracle-dense", [4.1, 3.9]) + longer + fewer + whole + own + room
    found = foretold.again(old + other + found)
    found = found.set_index(["about", "method", "other"])
    assert found.verdict["seeds from 3 on", "tlcr", "bandit"] == "came", "the first seeds are not counted"
    assert found.difference["another SFT model", "token", "tlcr"] == pytest.approx(-1.95, abs=0.01)
    assert found.difference["lambda 0.8 against 1", "tlcr", "tlcr"] == pytest.approx(0.5, abs=0.01)
    assert found.difference["lambda 0.95 against 1", "oracle-dense", "oracle-dense"] == pytest.approx(0)
    assert found.difference["two kinds at once", "token", "bandit"] == pytest.approx(-2)
    assert found.difference["edits at three kinds", "tlcr-clauses", "bandit"] == pytest.approx(-1)
    assert found.difference["a quarter of the pairs against all", "token", "token"] == pytest.approx(-0.5, abs=0.01)
    assert found.difference["only the whole counts", "bandit", "sft"] == pytest.approx(1.05, abs=0.01)
    assert found.difference["own settings", "token", "bandit"] == pytest.approx(0.5, abs=0.01)
    assert found.difference["own settings against one for all", "token", "token"] == pytest.approx(0.5, abs=0.01)
    assert found.difference["paid at their ends", "interpolation-none", "segment"] == pytest.approx(-0.5, abs=0.01)
    assert found.difference["room to win", "token", "bandit"] == pytest.approx(-1)
    assert found.difference["random rewards", "random-rewards", "sft"] == pytest.approx(0.2)
    about = "random rewards, five times the penalty"
    assert found.difference[about, "random-rewards", "sft"] == pytest.approx(0.1)
    about = "random rewards, advantages not whitened"
    assert found.difference[about, "random-rewards", "random-rewards"] == pytest.approx(-0.3)
    assert found.difference["room to win against one for all", "random-rewards", "sft"] == pytest.approx(-0.2)
    assert len(found) == 30
    chosen = ("own settings by", "room to win at own settings")
    about = {x for x in foretold.expected(foretold.SEEDS).about if not x.startswith(chosen)}
    assert about == set(found.index.get_level_values("about")), "the rest: test_own_settings.py"


def test_what_comes_again_is_counted_by_its_side():
    told = runs(
        segment=[1, 1.1, 0.9, 1, 1.1, 0.9],  # ahead, and again
        token=[1, 1.1, 0.9, -1, -1.1, -0.9],  # ahead, then behind
        sentence=[1, 1.1, 0.9, 0, 0.1, -0.1],  # ahead, then open
        random=[0.1, 0, -0.1, 1, 1.1, 0.9],  # open, then ahead
        bandit=[0, 0.01, -0.01, 0, 0.01, -0.01],
        sft=[1, 1.1, 0.9],  # no more seeds
    )
    said = foretold.replicated(told)
    assert (
        "Of 4 lines" in said
        and "3 were clear" in said
        and "1 of them are clear on the same side, 1 on the other" in said
    )


def test_a_line_of_two_settings_names_both_and_a_table_has_the_mean_beside_the_centre():
    told = runs(token=[3, -9], bandit=[2, 2], segment=[1, 1])
    parts = {"a quarter of the pairs against all": "token", "lambda 0.8 against 1": "bandit", "a part": "segment"}
    told_of = pd.DataFrame([(part, m, "behind", m) for part, m in parts.items()], columns=lines().columns)
    table = foretold.table(foretold.verdicts(told, told_of, runs(token=[1, 1], bandit=[1, 1.5], segment=[2, 2])))
    assert set(table.foretold) == {
        "Token, a quarter of the pairs, behind Token, all pairs",
        "Bandit (sequence) at lambda 0.8 behind Bandit (sequence) at 1",
        "Segment (entropy) behind Segment (entropy)",
    }
    row = table.set_index("about").loc["a quarter of the pairs against all"]
    assert row["mean difference (credit)"] == pytest.approx(-4) and row["seeds"] == 2
    assert float(row["centre on an asinh scale (credit)"].split()[0]) > -4 and len(table.columns) <= 7


@pytest.mark.parametrize(
    "text", ["a: [[segment, ahead]]", "a: [[segment, over, bandit]]", "a: [[none, ahead, bandit]]", "a: 3", "[1", "- 1"]
)
def test_a_line_that_is_none_is_named(text, tmp_path):
    (tmp_path / "f.yml").write_text(text)
    with pytest.raises(ValueError, match=r"f\.yml: (a: .* is none; give|cannot be read \()"):
        foretold.expected(tmp_path / "f.yml")
