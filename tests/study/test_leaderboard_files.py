"""The leaderboards' own tools on files of ours, where they are installed (alpaca-eval 0.6.6 beside setuptools below 81
and scikit-learn below 1.10, fschat 0.2.36): an answer that arrives as another, a rate that is not the one we give.

Nothing is asked: a stored verdict, or a judge of our own, stands in for the endpoint. Arena-Hard's tool is no package.
"""

import json
from pathlib import Path

import pandas as pd
import pytest

from study.measures.leaderboard_files import alpaca_outputs, mt_bench_answers
from study.measures.stored_verdicts import PUBLISHED
from study.measures.winrate import alpaca_preferences, length_controlled, win_rate

NUMBERS = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval_numbers"
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
ODD = "“quotes” {field} \r\n\ttab, \u2028 a separator of lines, \x85 another, 𝄞"


def officially(folder: Path, model: str, answers: dict, baseline: dict, preferences, metric: str, **given):
    """(leaderboard's row, annotations) of AlpacaEval's tool, from our two files and verdicts that it finds stored."""
    main = pytest.importorskip("alpaca_eval.main", reason="alpaca_eval is not installed", exc_type=ImportError)
    alpaca_outputs(folder / "outputs.json", model, answers)
    alpaca_outputs(folder / "baseline.json", "baseline", baseline)
    stored = [
        {"instruction": asked, "output_1": baseline[asked], "output_2": answers[asked], "annotator": ANNOTATOR}
        | {"preference": float(preference)}
        for asked, preference in zip(baseline, preferences)
    ]
    (folder / "stored.json").write_text(json.dumps(stored))
    board, annotations = main.evaluate(
        str(folder / "outputs.json"),
        str(folder / "baseline.json"),
        annotators_config=ANNOTATOR,
        caching_path=str(folder / "stored.json"),
        fn_metric=metric,
        metric_kwargs=given,
        sort_by="win_rate",
        precomputed_leaderboard=None,
        is_cache_leaderboard=False,
        output_path=None,
        is_return_instead_of_print=True,
    )
    return board.loc[model], annotations


def test_alpaca_eval_reads_our_answers_as_they_are_and_gives_our_win_rate(tmp_path):
    answers = {"Do.": ODD, "Say “no”.\n": "", "42": "7", "Third": "said", "Fourth": "the same"}
    baseline = {asked: f"the baseline on {asked}" for asked in reversed(answers)} | {"Fourth": "the same"}
    preferences = [1.5, 1.75, 2.0, 1.0, 1.25]
    row, annotations = officially(tmp_path, "m", answers, baseline, preferences, "get_winrate")
    assert {a["instruction"]: a["output_2"] for a in annotations} == answers
    assert {a["instruction"]: a["output_1"] for a in annotations} == baseline
    assert {a["generator_2"] for a in annotations} == {"m"}
    ours = win_rate(alpaca_preferences(preferences))
    assert (row.win_rate, row.standard_error) == pytest.approx((ours.rate, ours.standard_error))
    assert (row.n_wins, row.n_wins_base, row.n_draws) == (ours.wins, ours.losses, ours.draws)
    assert row.avg_length == int(sum(map(len, answers.values())) / len(answers))


@pytest.mark.parametrize("model", PUBLISHED)
def test_from_our_files_alpaca_eval_makes_the_published_rates_which_ours_are(model, tmp_path, monkeypatch):
    """Texts of the lengths that the leaderboard's had, with the verdicts that it published."""
    fit = pytest.importorskip(
        "alpaca_eval.metrics.glm_winrate", reason="alpaca_eval is not installed", exc_type=ImportError
    )
    if not NUMBERS.exists():
        pytest.skip(f"AlpacaEval's numbers are not at {NUMBERS}")
    monkeypatch.setattr(fit, "hf_hub_download", lambda filename, **_: str(NUMBERS / f"{filename}.gz"))
    rows = pd.read_csv(NUMBERS / "preferences_lengths.csv.gz")
    rows = rows[rows.model == model].sort_values("baseline_output_index")  # the tool finds difficulties by place
    asked = [f"instruction {i}" for i in rows.baseline_output_index]
    answers = dict(zip(asked, ("m" * n for n in rows.len_chars_output_2)))
    baseline = dict(zip(asked, ("b" * n for n in rows.len_chars_output_1)))
    preferences = rows.preference_1_baseline_2_model
    metric = "get_length_controlled_winrate"
    row, _ = officially(tmp_path, model, answers, baseline, preferences, metric, save_weights_dir=None)
    raw, controlled = PUBLISHED[model]
    assert row.win_rate == pytest.approx(raw, abs=5e-5)
    assert row.length_controlled_winrate == pytest.approx(controlled, abs=0.011)
    lengths = (list(map(len, texts.values())) for texts in (answers, baseline))
    gamed = pd.read_csv(NUMBERS / "df_gamed.csv.gz")
    ours = length_controlled(
        alpaca_preferences(preferences), *lengths, rows.baseline_output_index, gamed=gamed, resamples=0
    )
    assert row.length_controlled_winrate == pytest.approx(ours.rate, abs=0.011)


def test_fastchat_finds_both_turns_of_every_question_in_our_file(tmp_path, monkeypatch):
    common = pytest.importorskip("fastchat.llm_judge.common", reason="fastchat is not installed", exc_type=ImportError)
    answers = {81: [ODD, ""], 82: ["one", "two\n\n"]}
    mt_bench_answers(tmp_path / "m.jsonl", "m", answers)
    read = common.load_model_answers(str(tmp_path))
    questions = [{"question_id": q, "category": "writing", "turns": [f"{q}, first", f"{q}, second"]} for q in answers]
    words = {"type": "single", "name": "own", "system_prompt": "", "output_format": "[[rating]]"}
    words["prompt_template"] = "{question_1}|{answer_1}|{question_2}|{answer_2}"
    judge = common.Judge("gpt-4", words, multi_turn=True)
    common.check_data(questions, read, {}, common.get_model_list(str(tmp_path)), {"own": judge})
    monkeypatch.setattr(common, "chat_completion_openai", lambda *_, **__: "Rating: [[7]]")
    for question in questions:
        turns = answers[question["question_id"]]
        match = common.MatchSingle(question, "m", read["m"][question["question_id"]], judge, multi_turn=True)
        found = common.play_a_match_single(match, None)
        shown = [text for pair in zip(question["turns"], turns) for text in pair]
        assert found["user_prompt"] == "|".join(shown) and found["score"] == 7
