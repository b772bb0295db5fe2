"""Judges against a scripted server on loopback: a verdict turned around, an unreadable one taken for a tie, a judge
that does not see what it judges."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from densereward.labels.llm import Chat
from densereward.labels.replies import OUTCOMES
from study.measures import judges, winrate
from study.measures.judge_prompts import PROMPTS, fill, read_prompts
from study.measures.leaderboard_files import alpaca_outputs, arena_hard_answers, mt_bench_answers
from study.measures.verdicts import mt_bench, position_bias
from study.measures.winrate import alpaca_preferences, arena_hard, win_rate
from study.records import ROOT
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
    table = arena_hard(pd.DataFrame(rows), "base", resamples=20)
    assert table.score["m"] == pytest.approx(100 * 9.5 / 10, abs=1e-3) and table.unreadable["m"] == 2


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


def test_the_ranking_annotator_reads_json_as_text_and_as_a_tool_call(chat, endpoint):
    def ranking(body) -> str:
        best, worst = better(body, "m", "M"), better(body, "M", "m")
        return json.dumps({"ordered_models": [{"model": best, "rank": 1}, {"model": worst, "rank": 2}]})

    def tool(body):
        status, headers, told = completion(None)
        call = {"id": "1", "type": "function", "function": {"name": "rank", "arguments": ranking(body)}}
        told["choices"][0]["message"]["tool_calls"] = [call]
        told["choices"][0]["finish_reason"] = "tool_calls"
        return status, headers, told

    endpoint.reply = lambda body: completion(f"```json\n{ranking(body)}\n```")
    rows = [judges.alpaca_ranked(chat, f"Do {i}.", GOOD[0], BAD[0]) for i in range(4)]
    endpoint.reply = tool
    rows += [judges.alpaca_ranked(chat, f"Do {i}.", BAD[0], GOOD[0]) for i in range(4)]
    assert [row["preference"] for row in rows] == [2.0] * 4 + [1.0] * 4
    both = '[{"model": "m", "rank": 1}, {"model": "M", "rank": 1}]'
    assert [judges.read_ranking(text) for text in (both, "m", '{"ordered_models": 3}', "")] == [None] * 4


PYTHON_FILE = """<|im_start|>system
You rank models.
<|im_end|>
<|im_start|>user
{
    "instruction": \"""{instruction}\""",
}
[
    {
        "model": "model_1",
        "answer": \"""{output_1}\"""
    },
    {
        "model": "model_2",
        "answer": \"""{output_2}\"""
    }
]
Return a Python list:
[
    {'model': <model-name>, 'rank': <model-rank>},
    {'model': <model-name>, 'rank': <model-rank>}
]
<|im_end|>
"""  # the form of alpaca_eval_gpt4/alpaca_eval.txt


def test_tlcrs_annotator_answers_as_python_writes_lists_and_takes_its_own_file(chat, endpoint, tmp_path):
    """JSON has no single quotes: read as JSON alone, each of its verdicts would be unreadable."""

    def ranking(body) -> str:
        best, worst = better(body, "model_1", "model_2"), better(body, "model_2", "model_1")
        return f"[\n    {{'model': '{best}', 'rank': 1}},\n    {{'model': '{worst}', 'rank': 2}}\n]"

    (tmp_path / "alpaca_eval.txt").write_text(PYTHON_FILE)
    theirs = PROMPTS | read_prompts(tmp_path / "alpaca_eval.txt")
    endpoint.reply = lambda body: completion(ranking(body))
    rows = [judges.alpaca_listed(chat, f"Do {i}.", GOOD[0], BAD[0]) for i in range(4)]
    rows += [judges.alpaca_listed(chat, f"Do {i}.", BAD[0], GOOD[0], prompts=theirs) for i in range(4)]
    assert [row["preference"] for row in rows] == [2.0] * 4 + [1.0] * 4
    shown = {text.index("good one") < text.index("bad one") for text in map(asked, endpoint.requests)}
    assert shown == {True, False} and {row["outcome"] for row in rows} == {None}
    assert '"instruction": """Do 0.""",' in asked(endpoint.requests[4]) and "model_1" in asked(endpoint.requests[0])
    first = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"
    fenced = (
        f"```python\n{first.replace('model_1', 'x').replace('model_2', 'model_1').replace('x', 'model_2')}\n``` [so]"
    )
    assert [judges.read_ranking(text) for text in (first, first.replace("'", '"'), fenced)] == [0, 0, 1]
    wrong = [
        first.replace("rank': 1", "rank': 2"),
        first.replace("rank': 1", "rank': 3"),
        first[:40],
        "[{" + "(" * 9999 + "}]",
    ]
    wrong += [
        "[{'model': __import__('os').getpid(), 'rank': 1}, {'model': 'model_1', 'rank': 2}]",
        "[{}, {}]",
        "[{1}, 2]",
    ]
    assert [judges.read_ranking(text) for text in wrong] == [None] * len(wrong)


def test_the_pages_lines_go_from_answers_to_a_length_controlled_rate(endpoint, tmp_path, monkeypatch, capsys):
    """A reader with a key types them: a name that moved, or a side turned around, is theirs to pay for."""
    page = (ROOT / "book" / "judging.md").read_text()
    code = re.search(r"## From answers to a rate\n.*?```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    asks = [f"Do {i}." for i in range(40)]
    alpaca_outputs(
        "outputs.json", "mine", {ask: f"a good one {'x' * (7 * i % 40)}" for i, ask in enumerate(asks[::-1])}
    )
    alpaca_outputs("model_outputs.json", "base", {ask: f"a bad one {'x' * (3 * i % 40)}" for i, ask in enumerate(asks)})
    Path("alpaca_eval_clf.txt").write_text("<|im_start|>user\nm: {output_1} M: {output_2} to {instruction}<|im_end|>")
    rewritten = [{"preference": 0.5, "index": i, "std_delta_len": length, "instruction_difficulty": (i % 5) / 5,
                  "not_gamed_baseline": False, "model": name}
                 for name, length in (("concise", 1.0), ("verbose", -1.0)) for i in range(40)]  # fmt: skip
    pd.DataFrame(rewritten).to_csv("df_gamed.csv", index=False)
    endpoint.reply = lambda body: likely({better(body, "m", "M"): -0.2231435513, better(body, "M", "m"): -1.6094379124})
    found = {}
    exec(code, found)
    assert [message["role"] for message in endpoint.requests[0]["messages"]] == ["user"], "the reader's own words"
    assert "'asked': 40, 'read': 40" in capsys.readouterr().out
    controlled = winrate.length_controlled(
        found["preferences"], *found["lengths"], range(40), pd.DataFrame(rewritten), resamples=0
    )
    assert found["preferences"] == pytest.approx([0.8] * 40) and controlled.rate == pytest.approx(80, abs=1)
    exec(code, {})
    assert f"rate={controlled.rate}" in capsys.readouterr().out and len(endpoint.requests) == 40, "paid once"


# --- adaptive-mask ---------------------------------------------------------------------------------------------------


def test_the_json_judge_is_read_and_a_panel_asks_its_expert_only_where_votes_tie(chat, endpoint):
    endpoint.reply = lambda body: completion(
        "'''json\n" + json.dumps({"judge": f"[{better(body, 'A', 'B')}]", "tag": ["Help"], "reason": "[B] is bad"})
    )
    rows = [judges.adaptive_mask(chat, "Help!", *pair, "Ring 112.") for pair in ((GOOD[0], BAD[0]), (BAD[0], GOOD[0]))]
    assert [row["winner"] for row in rows] == ["A", "B"] and "Ring 112." in asked(endpoint.requests[0])
    endpoint.reply = lambda body: completion('{"judge": "[A or B]"}')
    rows.append(judges.adaptive_mask(chat, "Which?", GOOD[0], BAD[0]))
    assert rows[-1] == {"winner": None, "outcome": "unreadable"}

    def vote(winner):
        return {"winner": winner, "outcome": None if winner else "unreadable"}

    def never():
        raise AssertionError("the expert was asked without need")

    assert judges.panel([vote("A"), vote("B"), vote("A"), rows[0]], never)["winner"] == "A"
    assert judges.panel([vote("B"), vote(None), vote(None), rows[2]], never)["winner"] == "B"
    tied = judges.panel([vote("A"), vote("A"), vote("B"), rows[1]], lambda: vote("B"))
    assert (tied["winner"], tied["by"], tied["a"], tied["b"]) == ("B", "expert", 2, 2)
    lost = judges.panel([vote(None)] * 4, lambda: vote(None))
    assert (lost["winner"], lost["outcome"], lost["unread"]) == (None, "unreadable", 4)


# --- prompts and files -----------------------------------------------------------------------------------------------


def test_the_readers_own_copy_takes_the_place_of_our_words(chat, endpoint, tmp_path):
    if not MT_BENCH.exists():
        pytest.skip(f"no judge prompts at {MT_BENCH}")
    theirs = read_prompts(MT_BENCH / "judge_prompts.jsonl")
    assert set(theirs) == {name for name in PROMPTS if "-v" in name}, "every prompt of MT-Bench has its counterpart"
    for name, prompt in theirs.items():
        fields = {
            word for m in prompt for word in ("question_1", "answer", "ref_answer_1") if f"{{{word}}}" in m["content"]
        }
        ours = "\n".join(m["content"] for m in PROMPTS[name])
        assert all(f"{{{field}}}" in ours for field in fields)
    stored = next(j for j in lines(JUDGMENTS / "gpt-4_single.jsonl.gz") if j["question_id"] == 81 and j["turn"] == 1)
    question = next(q for q in lines(MT_BENCH / "question.jsonl") if q["question_id"] == 81)
    answers = next(a for a in lines(JUDGMENTS.parent / "model_answer" / "phi-3-dpo.jsonl.gz") if a["question_id"] == 81)
    endpoint.reply = lambda body: completion("Rating: [[9]]")
    judges.mt_bench_single(chat, question, answers["choices"][0]["turns"], prompts=PROMPTS | theirs)
    assert endpoint.requests[0]["messages"][1]["content"] == stored["user_prompt"], "the very prompt that was sent"

    (tmp_path / "alpaca_eval_clf.txt").write_text(
        "<|im_start|>system\nChoose.\n<|im_end|>\n<|im_start|>user\n{instruction} {{x}} {output_1} {output_2}<|im_end|>"
    )
    own = read_prompts(tmp_path / "alpaca_eval_clf.txt")
    filled = fill(own, "alpaca_eval_clf", {"instruction": "{output_1}", "output_1": "one", "output_2": "two"})
    assert filled[1]["content"] == "{output_1} {{x}} one two", "what an instruction says is no field"
    (tmp_path / "own.yaml").write_text('prompt_template: "{QUESTION} {ANSWER_A}"')
    with pytest.raises(ValueError, match=r"'arena-hard' has no \{ANSWER_B\}; the judge would not see it"):
        prompts = read_prompts(tmp_path / "own.yaml")
        judges.arena_hard_games(chat, "1", "Q", "m", "a", "base", "b", prompts=prompts)
    (tmp_path / "own.jsonl").write_text("{}\n")
    for name in ("own.jsonl", "none.txt"):
        with pytest.raises(ValueError, match=f"{name}' cannot be read"):
            read_prompts(tmp_path / name)


def test_style_is_counted_as_arena_hard_counts_it(tmp_path: Path):
    """Counted by hand: code is no style, seven marks are no header."""
    said = (
        "# One\n## Two\n## Three\n####### none\n1. a\n 2. b\n- c\n* **d** and __e__\n```\n# code\n- code\n```\n**f\ng**"
    )
    headers = {"h1": 1, "h2": 2, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    told = {"header_count": headers, "list_count": {"ordered": 2, "unordered": 2}, "bold_count": {"**": 1, "__": 1}}
    arena_hard_answers(tmp_path / "h.jsonl", "m", {"u1": ("Ask", said)}, tokens=lambda text: len(text.split()))
    (row,) = lines(tmp_path / "h.jsonl")
    assert row["metadata"] == {"token_len": len(said.split())} | told


def test_answers_are_written_as_the_leaderboards_tools_read_them(tmp_path: Path):
    alpaca_outputs(tmp_path / "a" / "outputs.json", "m", {"Do.": "Done – it is."})
    assert json.loads((tmp_path / "a" / "outputs.json").read_text()) == [
        {"instruction": "Do.", "output": "Done – it is.", "generator": "m"}
    ]
    mt_bench_answers(tmp_path / "m.jsonl", "m", {82: BAD, 81: GOOD})
    rows = lines(tmp_path / "m.jsonl")
    assert [(row["question_id"], row["choices"][0]["turns"]) for row in rows] == [(81, GOOD), (82, BAD)]
    arena_hard_answers(tmp_path / "h.jsonl", "m", {"u1": ("Ask", "Said")})
    (row,) = lines(tmp_path / "h.jsonl")
    assert (row["uid"], row["model"], row["messages"][-1]["content"]["answer"]) == ("u1", "m", "Said")
    with pytest.raises(ValueError, match="question 81 has not two answers"):
        mt_bench_answers(tmp_path / "m.jsonl", "m", {81: "one"})
    with pytest.raises(ValueError, match="no instruction was answered"):
        alpaca_outputs(tmp_path / "o.json", "m", {})
    theirs = lines(JUDGMENTS.parent / "model_answer" / "phi-3.jsonl.gz")[0]
    mine = lines(tmp_path / "m.jsonl")[0]
    assert {key: type(value) for key, value in mine.items()} == {key: type(value) for key, value in theirs.items()}
    assert mine["choices"][0].keys() == theirs["choices"][0].keys()
