"""Judges against a scripted server on loopback: a verdict turned around, an unreadable one taken for a tie, a judge
that does not see what it judges."""

import json
import re

import pandas as pd
import pytest

from densereward.labels.llm import Chat
from densereward.labels.replies import OUTCOMES
from study.measures import judges
from study.measures.judge_prompts import PROMPTS, fill
from study.measures.verdicts import mt_bench, position_bias
from study.measures.winrate import alpaca_preferences, win_rate
from test_llm import completion
from test_verdicts import JUDGMENTS, MT_BENCH, lines

WRITING = {"question_id": 81, "category": "writing", "turns": ["Write of Hawaii.", "Begin each line with A."]}
MATHS = {"question_id": 111, "category": "math", "turns": ["What is 2 + 2?", "And 3 + 3?"]}
REFERENCE = ["It is four.", "It is six."]
GOOD, BAD = ["a good one", "a second good one"], ["a bad one", "a second bad one"]


@pytest.fixture
def chat(endpoint, tmp_path):
    return Chat("judge", tmp_path / "replies.sqlite", temperature=0)


def asked(body: dict) -> str:
    return "\n".join(message["content"] for message in body["messages"])


def cut(text: str):
    status, headers, body = completion(text)
    body["choices"][0]["finish_reason"] = "length"
    return status, headers, body


def refused():
    status, headers, body = completion(None)
    body["choices"][0]["message"]["refusal"] = "I would rather not."
    return status, headers, body


def better(body: dict, first: str, second: str) -> str:
    """What an honest judge says: `first` where the good answer is shown first."""
    text = asked(body)
    return first if text.index("good one") < text.index("bad one") else second


# --- MT-Bench --------------------------------------------------------------------------------------------------------


def test_both_turns_are_graded_and_a_reference_is_shown_where_it_must(chat, endpoint):
    endpoint.answers += [completion(f"Well. Rating: [[{grade}]]") for grade in (9, 7, 4, "2.5")]
    rows = judges.mt_bench_single(chat, WRITING, GOOD) + judges.mt_bench_single(chat, MATHS, GOOD, REFERENCE)
    assert [row["score"] for row in rows] == [9, 7, 4, 2.5] and judges.faults(rows) == {"asked": 4, "read": 4}
    first, second, maths, _ = map(asked, endpoint.requests)
    assert GOOD[0] in first and GOOD[1] not in first and WRITING["turns"][1] not in first
    assert all(text in second for text in (*GOOD, *WRITING["turns"]))
    assert REFERENCE[0] in maths and "reference" not in first
    table = mt_bench(pd.DataFrame(rows), {81: "writing", 111: "math"})
    assert (table["first"]["all"], table["second"]["all"]) == (6.5, 4.75)
    with pytest.raises(ValueError, match="question 111: math is graded against a reference"):
        judges.mt_bench_single(chat, MATHS, GOOD)
    with pytest.raises(ValueError, match="question 81: MT-Bench has two turns"):
        judges.mt_bench_single(chat, WRITING, GOOD[:1])


def test_what_cannot_be_read_is_counted_and_has_no_score(chat, endpoint):
    endpoint.answers += [completion("Eight of ten."), completion("[[8]], or rather [[9]]")]
    endpoint.answers += [refused(), cut("Rating: [[5]] would be too")]
    rows = judges.mt_bench_single(chat, WRITING, GOOD) + judges.mt_bench_single(chat, MATHS, GOOD, REFERENCE)
    assert [row["score"] for row in rows] == [None] * 4
    assert judges.faults(rows) == {"asked": 4, "read": 0, "unreadable": 2, "refused": 1, "cut": 1}
    assert {"refused", "cut"} <= set(OUTCOMES)
    assert mt_bench(pd.DataFrame(rows), {81: "writing", 111: "math"}).unreadable["all"] == 4
    endpoint.answers += [completion("[[0]]"), completion("[[11]]")]
    assert [r["outcome"] for r in judges.mt_bench_single(chat, WRITING, BAD)] == ["unreadable"] * 2


def test_pairs_are_asked_in_both_orders_and_a_lazy_judge_is_seen(chat, endpoint):
    endpoint.reply = lambda body: completion(f"[[{better(body, 'A', 'B')}]]")
    honest = judges.mt_bench_pair(chat, WRITING, 1, GOOD, BAD) + judges.mt_bench_pair(
        chat, MATHS, 2, BAD, GOOD, REFERENCE
    )
    assert [row["winner"] for row in honest] == ["model_1", "model_1", "model_2", "model_2"]
    endpoint.reply = lambda body: completion("[[A]]")
    lazy = judges.mt_bench_pair(chat, WRITING, 2, GOOD, BAD)
    endpoint.reply = lambda body: completion("[[C]]")
    tied = judges.mt_bench_pair(chat, MATHS, 1, GOOD, BAD, REFERENCE)
    endpoint.answers += [completion("[[B]]"), completion("A, I think")]
    endpoint.reply = None
    half = judges.mt_bench_pair(chat, MATHS, 2, GOOD, ["no", "not asked yet"], REFERENCE)
    assert [row["winner"] for row in lazy + tied + half] == ["model_1", "model_2", "tie", "tie", "model_2", None]
    rows = pd.DataFrame(honest + lazy + tied + half)
    winners = [[w if isinstance(w, str) else None for w in rows.winner[rows.order == o]] for o in ("first", "second")]
    found = position_bias(*winners)
    assert (found["pairs"], found["unreadable"], found["reversed"], found["to_first"]) == (5, 1, 1, 1)


def test_stored_judgments_are_read_as_their_own_tool_read_them():
    for told in lines(JUDGMENTS / "gpt-4_single.jsonl.gz"):
        assert judges.read_rating(told["judgment"]) == told["score"]
    winners = {"A": ("model_1", "model_2"), "B": ("model_2", "model_1"), "C": ("tie", "tie"), None: ("error", "error")}
    for told in lines(JUDGMENTS / "gpt-4_pair.jsonl.gz"):
        for i, game in enumerate(("g1", "g2")):
            assert winners[judges.read_choice(told[f"{game}_judgment"])][i] == told[f"{game}_winner"]


# --- Arena-Hard ------------------------------------------------------------------------------------------------------


def test_arena_games_keep_their_order_and_strength(chat, endpoint):
    def play(uid: str, answer: str = GOOD[0], baseline: str = BAD[0]) -> list[dict]:
        return judges.arena_hard_games(chat, uid, f"Question {uid}", "m", answer, "base", baseline)

    endpoint.reply = lambda body: completion(f"My verdict: [[{better(body, 'A>>B', 'B>>A')}]]")
    rows = play("1")
    assert [(r["model_a"], r["verdict"]) for r in rows] == [("base", "B>>A"), ("m", "A>>B")]
    endpoint.reply = None
    endpoint.answers += [completion("[[A<<B]]"), completion("[[A=B]]"), completion("[[A>B>A]]"), refused()]
    rows += play("2") + play("3")
    assert [r["verdict"] for r in rows[2:]] == ["B>>A", "A=B", None, None]
    assert judges.faults(rows) == {"asked": 6, "read": 4, "unreadable": 1, "refused": 1}


# --- AlpacaEval ------------------------------------------------------------------------------------------------------


def likely(words: dict[str, float] | None):
    status, headers, body = cut("m")
    top = [{"token": word, "logprob": value} for word, value in (words or {}).items()]
    if words is not None:
        body["choices"][0]["logprobs"] = {"content": [{"token": "m", "logprob": -0.1, "top_logprobs": top}]}
    return status, headers, body


def test_the_weighted_annotator_weighs_two_letters_and_keeps_them(chat, endpoint):
    weighted = Chat("judge", chat.cache, **judges.WEIGHTED)
    endpoint.reply = lambda body: likely(
        {better(body, "m", "M"): -0.2231435513, better(body, "M", "m"): -1.6094379124, "The": -9.0}
    )
    with pytest.raises(ValueError, match=r"make it with Chat\(..., \*\*WEIGHTED\)"):
        judges.alpaca_weighted(chat, "Do.", GOOD[0], BAD[0])
    rows = [judges.alpaca_weighted(weighted, f"Do {i}.", GOOD[0], BAD[0]) for i in range(8)]
    assert [row["preference"] for row in rows] == pytest.approx([1.8] * 8)
    firsts = {text.index("good one") < text.index("bad one") for text in map(asked, endpoint.requests)}
    assert firsts == {True, False}, "which comes first is drawn"
    assert endpoint.requests[0]["logprobs"] is True and endpoint.requests[0]["max_tokens"] == 1
    assert win_rate(alpaca_preferences([row["preference"] for row in rows])).rate == pytest.approx(80)
    before = len(endpoint.requests)
    again = Chat("judge", chat.cache, **judges.WEIGHTED)
    assert judges.alpaca_weighted(again, "Do 0.", GOOD[0], BAD[0]) == rows[0] and len(endpoint.requests) == before


def test_a_letter_that_is_missing_has_no_weight_and_none_is_unreadable(chat, endpoint):
    weighted = Chat("judge", chat.cache, **judges.WEIGHTED)
    endpoint.reply = lambda body: likely({better(body, "m", "M"): -0.1, "The": -3.0})
    rows = [judges.alpaca_weighted(weighted, "Do.", GOOD[0], BAD[0])]
    endpoint.reply = None
    endpoint.answers += [likely({"The": -0.1}), likely(None), refused()]
    rows += [judges.alpaca_weighted(weighted, f"Do {i}.", GOOD[0], BAD[0]) for i in range(3)]
    assert [row["preference"] for row in rows] == [2.0, None, None, None]
    assert judges.faults(rows) == {"asked": 4, "read": 1, "unreadable": 2, "refused": 1}
    assert win_rate(alpaca_preferences([row["preference"] for row in rows])).unreadable == 3


# --- adaptive-mask ---------------------------------------------------------------------------------------------------


def test_the_judge_that_answers_in_json_is_read(chat, endpoint):
    endpoint.reply = lambda body: completion(
        "'''json\n" + json.dumps({"judge": f"[{better(body, 'A', 'B')}]", "tag": ["Help"], "reason": "[B] is bad"})
    )
    rows = [judges.adaptive_mask(chat, "Help!", *pair, "Ring 112.") for pair in ((GOOD[0], BAD[0]), (BAD[0], GOOD[0]))]
    assert [row["winner"] for row in rows] == ["A", "B"] and "Ring 112." in asked(endpoint.requests[0])
    endpoint.reply = lambda body: completion('{"judge": "[A or B]"}')
    rows.append(judges.adaptive_mask(chat, "Which?", GOOD[0], BAD[0]))
    assert rows[-1] == {"winner": None, "outcome": "unreadable"}


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_every_prompt_of_mt_bench_has_its_counterpart_with_the_same_fields():
    if not MT_BENCH.exists():
        pytest.skip(f"no judge prompts at {MT_BENCH}")
    theirs = {
        row["name"]: row["system_prompt"] + row["prompt_template"] for row in lines(MT_BENCH / "judge_prompts.jsonl")
    }
    assert set(theirs) == {name for name in PROMPTS if "-v" in name}
    for name, prompt in theirs.items():
        ours = "\n".join(m["content"] for m in PROMPTS[name])
        assert set(re.findall(r"{(\w+)}", ours)) == set(re.findall(r"{(\w+)}", prompt)), name


def test_what_an_instruction_says_is_no_field():
    filled = fill("alpaca_eval_clf", {"instruction": "{output_1}", "output_1": "one", "output_2": "two"})
    assert "<instruction>\n{output_1}\n" in filled[1]["content"] and "<output of m>\none\n" in filled[1]["content"]
