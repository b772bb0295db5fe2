"""What verdicts add up to: published means and accuracies, position bias, and that what cannot be read is no tie."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.measures.stored_verdicts import SETS, picks
from study.measures.verdicts import agreement, mt_bench, position_bias

DATA = Path(__file__).parents[3] / "shared" / "data"
MT_BENCH = DATA / "mt_bench"
JUDGMENTS = MT_BENCH / "phi3_stefanstud" / "model_judgment"


def lines(path: Path) -> list[dict]:
    if not path.exists():
        pytest.skip(f"no judgments at {path}")
    text = gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_published_scores_of_mt_bench_come_out():
    judged = [(j["question_id"], j["turn"], j["score"]) for j in lines(JUDGMENTS / "gpt-4_single.jsonl.gz")]
    judged = pd.DataFrame(judged, columns=["question", "turn", "score"])
    categories = {q["question_id"]: q["category"] for q in lines(MT_BENCH / "question.jsonl")}
    table = mt_bench(judged, categories)
    assert (table.first["all"], table.second["all"]) == (8.3625, 8.0375), "printed as 8.363 and 8.037"
    assert table.both["all"] == 8.2 and table.judged["all"] == 160 and len(table) == 9
    assert (table.judged[:-1] == 20).all() and table.both[:-1].mean() == pytest.approx(8.2)
    judged.loc[judged.question == 81, "score"] = np.nan
    assert mt_bench(judged, categories).unreadable[["all", "writing"]].tolist() == [2, 2]


def test_mt_bench_names_what_is_wrong():
    judged = pd.DataFrame({"question": [1, 1], "turn": [1, 2], "score": [5.0, -1]})
    with pytest.raises(ValueError, match="question 1: score -1"):
        mt_bench(judged, {1: "math"})
    with pytest.raises(ValueError, match="question 1: turn 1 is judged twice"):
        mt_bench(judged.assign(turn=1, score=5), {1: "math"})
    with pytest.raises(ValueError, match="question 1 has no category"):
        mt_bench(judged.assign(score=5), {})


def test_stored_pair_judgments_give_their_known_position_bias():
    pairs = lines(JUDGMENTS / "gpt-4_pair.jsonl.gz")
    first, second = ([None if p[g] == "error" else p[g] for p in pairs] for g in ("g1_winner", "g2_winner"))
    found = position_bias(first, second)
    counts = {"pairs": 75, "unreadable": 2, "same": 46, "reversed": 18, "tie_in_one": 9, "to_first": 16, "to_second": 2}
    assert {name: found[name] for name in counts} == counts
    assert found["flip"][0] == 27 / 73 and found["reversal"][0] == 18 / 73
    assert found["wins"] == {"model_1": 18, "model_2": 20, "tie": 35}
    assert found["reversal"][1] < 18 / 73 < found["reversal"][2]


def test_a_judge_that_always_takes_the_first_is_seen_and_an_unreadable_verdict_is_no_tie():
    found = position_bias(["model_1"] * 4, ["model_2"] * 3 + [None])
    assert (found["reversed"], found["to_first"], found["unreadable"], found["flip"][0]) == (3, 3, 1, 1.0)
    assert found["wins"] == {"model_1": 0, "model_2": 0, "tie": 3}
    with pytest.raises(ValueError, match=r"verdicts \['A'\] are none of"):
        position_bias(["A"], ["tie"])


@pytest.mark.parametrize("name", SETS)
def test_published_statistics_of_llmbar_come_out(name):
    """The picks are any that have the published counts."""
    path = DATA / "llmbar" / f"{name}.gpt4_vanilla_statistics.json"
    if not path.exists():
        pytest.skip(f"no statistics at {path}")
    published = json.loads(path.read_text())
    first, second, labels = picks(path.parent, name)
    found = agreement(first, second, labels)
    for ours, theirs in (("first", "correct_False"), ("second", "correct_True"), ("both", "correct_both")):
        assert 100 * found[ours][1] == pytest.approx(float(published[theirs].split("=")[1].strip(" %")))
    assert 100 * found["equal"][1] == pytest.approx(float(published["equal"].split("=")[1].strip(" %")))
    assert 100 * found["average"][0] == pytest.approx(float(published["correct_average"].strip("%")))
    assert found["average"][1] < found["average"][0] < found["average"][2] and found["unreadable"] == 0


def test_an_unreadable_pick_is_wrong_and_equal_to_nothing():
    found = agreement(["1", None, "2"], ["1", None, "1"], ["1", "1", "2"])
    assert (found["first"][0], found["second"][0], found["both"][0], found["equal"][0]) == (2, 1, 1, 1)
    assert found["unreadable"] == 2
    with pytest.raises(ValueError, match="2 labels for 1 items"):
        agreement(["1"], ["1"], ["1", "2"])
