"""The judges that the papers stand by, asked through `densereward.labels.llm.Chat`, so that each verdict is paid once.

MT-Bench (Zheng et al. 2023, arXiv 2306.05685), Arena-Hard (Li et al. 2024, arXiv 2406.11939), AlpacaEval (Li et al.
2023; Dubois et al. 2024, arXiv 2404.04475) and adaptive-mask's Appendix C.1. Every function returns rows with an
`outcome`: None for a verdict that was read, "unreadable" for a whole reply that holds none or two that differ, else
what the client says of the reply (cut, filtered, refused, over_context, unanswered). A verdict that was not read is
None, and never a tie; `faults` counts them. What the rows add up to: `verdicts.py`, `winrate.py`.

Many at once: hand the calls to a ThreadPoolExecutor; the client bounds what is under way. Left out: images, asking
again after an unreadable verdict (at temperature 0 the same would come), Arena-Hard 2's style control.

Book: judging.md
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import scipy

from densereward import seeding
from densereward.labels.llm import Chat
from study.measures.judge_prompts import PROMPTS, fill

WITH_REFERENCE = ("math", "reasoning", "coding")  # MT-Bench's categories whose answers are held against a reference
WEIGHTED = {"max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 5}  # sampling of `alpaca_weighted`
_SAME = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}
_REVERSED = str.maketrans("AB", "BA")


def faults(rows: Iterable[dict]) -> dict[str, int]:
    """How many verdicts were asked for, read, and not read by outcome."""
    total = Counter(asked=0, read=0)
    for row in rows:
        total.update(["asked", row["outcome"] or "read"])
    return dict(total)


def mt_bench_single(
    chat: Chat, question: dict, answers: Sequence[str], reference: Sequence[str] | None = None, prompts=PROMPTS
) -> list[dict]:
    """The grades of one model's answers to both turns of a question (question_id, category, turns, as in MT-Bench's
    file): {question, turn, score (1..10), outcome}, one per turn. Raises ValueError for a question of math, reasoning
    or coding without a reference, and for other than two turns."""
    rows = []
    for turn in (1, 2):
        name, fields = _mt_bench("single", question, {"answer": answers}, reference, turn)
        score, outcome = _verdict(chat, fill(prompts, name, fields), read_rating)
        rows.append({"question": question["question_id"], "turn": turn, "score": score, "outcome": outcome})
    return rows


def mt_bench_pair(
    chat: Chat,
    question: dict,
    turn: int,
    one: Sequence[str],
    other: Sequence[str],
    reference: Sequence[str] | None = None,
    prompts=PROMPTS,
) -> list[dict]:
    """Which of two models' answers to a turn is better, asked in both orders: {question, turn, order ("first": `one` is
    shown first, "second"), winner ("model_1" for `one`, "model_2", "tie"), outcome}, what `verdicts.position_bias`
    takes. Raises as `mt_bench_single`."""
    rows = []
    for order, (a, b) in {"first": (one, other), "second": (other, one)}.items():
        name, fields = _mt_bench("pair", question, {"answer_a": a, "answer_b": b}, reference, turn)
        label, outcome = _verdict(chat, fill(prompts, name, fields), read_choice)
        winners = {"A": "model_1", "B": "model_2", "C": "tie"}
        label = label.translate(_REVERSED) if label and order == "second" else label
        row = {"question": question["question_id"], "turn": turn, "order": order}
        rows.append(row | {"winner": winners.get(label), "outcome": outcome})
    return rows


def arena_hard_games(
    chat: Chat, uid: str, question: str, model: str, answer: str, baseline: str, baseline_answer: str, prompts=PROMPTS
) -> list[dict]:
    """Two games of a model against the baseline, the baseline first and then the model: {prompt, model_a, model_b,
    verdict (one of five, as A>>B), outcome}, what `winrate.arena_hard` takes."""
    sides, rows = [(baseline, baseline_answer), (model, answer)], []
    for (name_a, a), (name_b, b) in (sides, sides[::-1]):
        messages = fill(prompts, "arena-hard", {"QUESTION": question, "ANSWER_A": a, "ANSWER_B": b})
        verdict, outcome = _verdict(chat, messages, read_five_way)
        rows.append({"prompt": uid, "model_a": name_a, "model_b": name_b, "verdict": verdict, "outcome": outcome})
    return rows


def alpaca_ranked(chat: Chat, instruction: str, answer: str, baseline_answer: str, seed=0, prompts=PROMPTS) -> dict:
    """AlpacaEval's annotator that ranks two outputs in JSON, as text or as a tool call's arguments: {instruction,
    preference (1 the baseline's, 2 the model's, as in its files), outcome}. Which output comes first is drawn per
    instruction."""
    return _alpaca(chat, "alpaca_eval_fn", instruction, answer, baseline_answer, seed, prompts)


def alpaca_listed(chat: Chat, instruction: str, answer: str, baseline_answer: str, seed=0, prompts=PROMPTS) -> dict:
    """AlpacaEval's first annotator, alpaca_eval_gpt4, tlcr's: as `alpaca_ranked`, in a list of Python's dictionaries.
    The released code looks at the rank of the first output alone; where both have one rank this is unreadable."""
    return _alpaca(chat, "alpaca_eval", instruction, answer, baseline_answer, seed, prompts)


def alpaca_weighted(chat: Chat, instruction: str, answer: str, baseline_answer: str, seed=0, prompts=PROMPTS) -> dict:
    """AlpacaEval 2's own annotator: as `alpaca_ranked`, the preference between 1 and 2 by the probabilities of the two
    letters in place of the reply's first token. `chat` samples with WEIGHTED; an endpoint that gives no
    log-probabilities, or neither letter among the likeliest, is unreadable."""
    return _alpaca(chat, "alpaca_eval_clf", instruction, answer, baseline_answer, seed, prompts)


def _alpaca(chat: Chat, name: str, instruction: str, answer: str, baseline_answer: str, seed: int, prompts) -> dict:
    model_first = bool(seeding.derive(seed, "alpaca", instruction) % 2)
    outputs = (answer, baseline_answer) if model_first else (baseline_answer, answer)
    fields = {"instruction": instruction, "output_1": outputs[0], "output_2": outputs[1]}
    messages = fill(prompts, name, fields)
    if name != "alpaca_eval_clf":
        for_second, outcome = _verdict(chat, messages, read_ranking)
    elif chat.sampling.get("logprobs"):
        for_second, outcome = _verdict(chat, messages, read_weights, enough="cut")  # one token was asked for
    else:
        raise ValueError("this judge is read by its log-probabilities; make it with Chat(..., **WEIGHTED)")
    preference = None if for_second is None else 2 - for_second if model_first else 1 + for_second
    return {"instruction": instruction, "preference": preference, "outcome": outcome}


def adaptive_mask(
    chat: Chat, prompt: str, answer_a: str, answer_b: str, reference: str | None = None, prompts=PROMPTS
) -> dict:
    """adaptive-mask Appendix C.1: {winner ("A" or "B"), outcome}, from a reply in JSON. There is no tie to choose."""
    fields = {"prompt": prompt, "answer_a": answer_a, "answer_b": answer_b}
    fields["reference_answer"] = "(none: write one for yourself)" if reference is None else reference
    winner, outcome = _verdict(chat, fill(prompts, "adaptive-mask", fields), read_judge_field)
    return {"winner": winner, "outcome": outcome}


def panel(votes: Sequence[dict], expert: Callable[[], dict]) -> dict:
    """adaptive-mask Section 4.1: the votes of three annotators and the judge (rows with `winner` and `outcome`), one
    each; the expert is asked only where as many were read for A as for B. {winner, outcome, by ("votes" or "expert"),
    a, b, unread}."""
    count = Counter(vote["winner"] for vote in votes)
    told = {"a": count["A"], "b": count["B"], "unread": count[None]}
    if unknown := set(count) - {"A", "B", None}:
        raise ValueError(f"votes for {sorted(unknown)}; a vote is 'A', 'B', or None where it was not read")
    if count["A"] != count["B"]:
        return {"winner": max("AB", key=count.__getitem__), "outcome": None, "by": "votes"} | told
    last = expert()
    return {"winner": last["winner"], "outcome": last["outcome"], "by": "expert"} | told


# --- reading a reply -------------------------------------------------------------------------------------------------


def read_rating(text: str) -> float | None:
    """The one rating 1..10 in double square brackets; None for none, another number, or two that differ."""
    found = {float(number) for number in re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]", text)}
    return found.pop() if len(found) == 1 and 1 <= min(found) <= 10 else None


def read_choice(text: str) -> str | None:
    """The one label of A, B and C (a tie) in double square brackets; None for none, or two that differ."""
    found = set(re.findall(r"\[\[([ABC])\]\]", text))
    return found.pop() if len(found) == 1 else None


def read_five_way(text: str) -> str | None:
    """Arena-Hard's one label in double square brackets, A>>B to B>>A; None for none, or two that differ."""
    labels = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
    found = {_SAME.get(label, label) for label in re.findall(r"\[\[([AB<>=]+)\]\]", text)}
    return found.pop() if len(found) == 1 and found <= set(labels) else None


def read_ranking(text: str) -> float | None:
    """1 where the second output (M, or model_2) is ranked first of the two, 0 where the first (m, model_1) is, None
    where neither can be read. In JSON, or as Python writes a list of dictionaries."""
    ranked = _json(text) or _literal(text)
    ranked = ranked.get("ordered_models") if isinstance(ranked, dict) else ranked
    try:
        ranks = {{"model_1": "m", "model_2": "M"}.get(row["model"], row["model"]): float(row["rank"]) for row in ranked}
    except (TypeError, KeyError, ValueError):
        return None
    return {(1, 2): 0.0, (2, 1): 1.0}.get((ranks.get("m"), ranks.get("M"))) if len(ranked) == 2 else None


def read_weights(text: str) -> float | None:
    """P(M) / (P(m) + P(M)) in place of the first token, of log-probabilities as the client gives them; a letter that is
    not among the likeliest has none, and without either it is None."""
    first = (json.loads(text or "[]") or [{}])[0]
    if "m" not in first or "M" not in first:
        return 1.0 if "M" in first else 0.0 if "m" in first else None
    return float(scipy.special.expit(first["M"] - first["m"]))


def read_judge_field(text: str) -> str | None:
    """A or B from the field `judge` of a reply in JSON, in brackets or not."""
    found = _json(text)
    judge = found.get("judge") if isinstance(found, dict) else None
    return {"A": "A", "B": "B", "[A]": "A", "[B]": "B"}.get(judge.strip()) if isinstance(judge, str) else None


def _json(text: str):
    """The first object, or list of objects, that the reply holds as JSON, in a fence or a sentence; else None."""
    for start in re.finditer(r"[\[{]", text):
        with suppress(ValueError, RecursionError):
            found = json.JSONDecoder().raw_decode(text[start.start() :])[0]
            if found and all(isinstance(one, dict) for one in (found if isinstance(found, list) else [found])):
                return found
    return None


def _literal(text: str):
    """The first list of dictionaries that the reply holds as Python writes it; else None. Nothing is executed."""
    found = re.search(r"\[\s*\{.*?\}\s*,?\s*\]", text, re.DOTALL)
    with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ast.literal_eval(found[0]) if found else None
    return None


def _verdict(chat: Chat, messages: list[dict], read: Callable, enough: str | None = None) -> tuple:
    """(what was read, None), or (None, why not); a reply of the outcome `enough` is read all the same."""
    reply = chat.ask(messages)
    if reply.outcome not in (None, enough):
        return None, reply.outcome
    value = read(reply.text)
    return value, "unreadable" if value is None else None


def _mt_bench(
    kind: str, question: dict, answers: dict[str, Sequence[str]], reference: Sequence[str] | None, turn: int
) -> tuple[str, dict[str, str]]:
    """The name of MT-Bench's prompt for a turn and what fills it."""
    named = f"question {question['question_id']}"
    if turn not in (1, 2) or len(question["turns"]) != 2 or any(len(a) != 2 for a in answers.values()):
        raise ValueError(f"{named}: MT-Bench has two turns; pass two questions and two answers, and turn 1 or 2")
    with_reference = question["category"] in WITH_REFERENCE
    if with_reference and (reference is None or len(reference) != 2):
        raise ValueError(f"{named}: {question['category']} is graded against a reference; pass its two answers")
    name = f"{kind}-math-v1" if with_reference else {"single": "single-v1", "pair": "pair-v2"}[kind]
    if turn == 1:
        fields = {"question": question["turns"][0]} | {field: given[0] for field, given in answers.items()}
        return name, fields | ({"ref_answer_1": reference[0]} if with_reference else {})
    fields = {f"question_{i}": text for i, text in enumerate(question["turns"], 1)}
    fields |= {f"{field}_{i}": text for field, given in answers.items() for i, text in enumerate(given, 1)}
    fields |= {f"ref_answer_{i}": text for i, text in enumerate(reference, 1)} if with_reference else {}
    return f"{name}-multi-turn", fields
