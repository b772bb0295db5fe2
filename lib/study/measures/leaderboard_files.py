"""A model's answers in the files that the leaderboards' own tools read.

Formats as of tatsu-lab/alpaca_eval cd543a1, lm-sys/FastChat 0e6d3e4 and lmarena/arena-hard-auto 196f6b8. Time
stamps are 0: the same answers, the same file.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def alpaca_outputs(path: str | Path, model: str, outputs: Mapping[str, str]) -> None:
    """AlpacaEval's model_outputs.json of instruction -> output: a list of {instruction, output, generator}."""
    _whole("instruction", outputs, outputs.values())
    rows = [{"instruction": asked, "output": said, "generator": model} for asked, said in outputs.items()]
    _write(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def mt_bench_answers(path: str | Path, model: str, answers: Mapping[int, Sequence[str]]) -> None:
    """MT-Bench's model_answer/<model>.jsonl of question_id -> its two answers, in the order of questions.
    Raises ValueError for a question with other than two."""
    for question, turns in answers.items():
        if isinstance(turns, str) or len(turns) != 2:
            raise ValueError(f"question {question} has not two answers; MT-Bench asks twice")
    _whole("question", answers, [said for turns in answers.values() for said in turns])
    rows = [
        {
            "question_id": question,
            "answer_id": _name(model, question),
            "model_id": model,
            "choices": [{"index": 0, "turns": list(answers[question])}],
            "tstamp": 0.0,
        }
        for question in sorted(answers)
    ]
    _write_lines(path, rows)


def arena_hard_answers(
    path: str | Path, model: str, answers: Mapping[str, tuple[str, str]], tokens: Callable[[str], int] | None = None
) -> None:
    """Arena-Hard's model_answer/<model>.jsonl of uid -> (prompt, answer). With `tokens`, which counts a text's, the
    metadata that its style control reads; its own script counts with tiktoken's encoding of gpt-4o."""
    _whole("question", answers, [said for _, said in answers.values()])
    rows = [
        {
            "uid": uid,
            "ans_id": _name(model, uid),
            "model": model,
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": {"answer": said}}],
            "tstamp": 0.0,
        }
        | ({"metadata": {"token_len": tokens(said)} | style(said)} if tokens else {})
        for uid, (asked, said) in answers.items()
    ]
    _write_lines(path, rows)


def style(answer: str) -> dict[str, dict[str, int]]:
    """Headers by level, items of lists by kind and bold passages by mark, as Arena-Hard's style control counts them:
    of the answer without any text that stands within a fence of code, wherever else it stands."""
    for code in re.findall(r"```([^`]*)```", answer):
        answer = answer.replace(code, "")
    levels = Counter(len(marks) for marks in re.findall(r"^(#{1,6})\s", answer, re.MULTILINE))

    def count(pattern: str) -> int:
        return len(re.findall(pattern, answer, re.MULTILINE))

    return {
        "header_count": {f"h{level}": levels[level] for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {mark: count(rf"{re.escape(mark)}[^{mark[0]}\n]+{re.escape(mark)}") for mark in ("**", "__")},
    }


def _whole(what: str, asked, said) -> None:
    if not asked:
        raise ValueError(f"no {what} was answered; the leaderboard would read an empty file")
    if not all(isinstance(text, str) for text in said):
        raise ValueError(f"an answer to a {what} is no text; write '' for an empty one")


def _name(model: str, question: object) -> str:
    return hashlib.sha256(f"{model}\n{question}".encode()).hexdigest()[:22]


def _write_lines(path: str | Path, rows: list[dict]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: str | Path, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
