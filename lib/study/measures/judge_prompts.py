"""What the judges are asked: our words for what each benchmark specifies, or the reader's own copy of its words.

Names and fields are the benchmarks' own (FastChat's, Arena-Hard's, AlpacaEval's), so that a copy of their file fits:
`PROMPTS | read_prompts("judge_prompts.jsonl")`. A prompt is a list of messages whose content holds {fields}.
"""

import json
import re
from pathlib import Path

import yaml

Prompt = list[dict[str, str]]

_FAIR = (
    "Be fair: neither the order in which the two are shown, nor their lengths, nor their names may count, only what "
    "they say."
)
_QUALITY = "whether it does what was asked, whether it is correct, relevant, deep, inventive, and detailed enough"
_AGAINST = (
    "You are given a reference solution. Compare with it first, name each mistake and correct it; what counts is "
    "whether the solution is correct, and how much it helps."
)
_RATE = (
    "Explain your grade in a few sentences. Then give it as a whole number from 1 (useless) to 10 (could not be "
    "better), in double square brackets, as in: Rating: [[5]]"
)
_CHOOSE = (
    "Explain your choice in a few sentences. Then end with one label and nothing else in double square brackets: "
    "[[A]] if assistant A did better, [[B]] if assistant B did, [[C]] if neither."
)
_SECOND = "The user asked twice; judge what was answered to the second question, the first being what led up to it."
_ONE = "You grade the work of an AI assistant that answered a user."
_TWO = "You compare the work of two AI assistants that answered the same user. " + _FAIR


def _block(title: str, body: str) -> str:
    return f"<{title}>\n{body}\n</{title}>"


def _dialogue(title: str, who: str, answers: tuple[str, str]) -> str:
    turns = [f"User: {{question_{i}}}\n\n{who}: {{{answer}}}" for i, answer in enumerate(answers, 1)]
    return _block(title, "\n\n".join(turns))


def _prompt(system: str, *blocks: str) -> Prompt:
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n\n".join(blocks)}]


def _mt_bench(pair: bool, reference: bool, second: bool) -> Prompt:
    """MT-Bench's eight: one answer or two, with a reference or without, first turn or second."""
    rule = _AGAINST if reference else f"What counts is {_QUALITY}."
    system = [_TWO if pair else _ONE, rule, *([_SECOND] if second else []), _CHOOSE if pair else _RATE]
    if second:
        blocks = [_dialogue("reference", "Reference", ("ref_answer_1", "ref_answer_2"))] if reference else []
        for letter in ("a", "b") if pair else ("",):
            who = f"Assistant {letter.upper()}".strip()
            name = f"answer_{letter}_" if letter else "answer_"
            blocks.append(_dialogue(who.lower(), who, (f"{name}1", f"{name}2")))
    else:
        blocks = [_block("question", "{question}")]
        blocks += [_block("reference", "{ref_answer_1}")] if reference else []
        names = {"assistant a": "answer_a", "assistant b": "answer_b"} if pair else {"assistant": "answer"}
        blocks += [_block(who, f"{{{name}}}") for who, name in names.items()]
    return _prompt(" ".join(system), *blocks)


_ALPACA = (
    _block("instruction", "{instruction}"),
    _block("output of m", "{output_1}"),
    _block("output of M", "{output_2}"),
)
_RANK = "You rank language models by the quality of their outputs for one instruction, as people would."
PROMPTS: dict[str, Prompt] = {
    f"{kind}{'-math-v1' if reference else version}{'-multi-turn' if second else ''}": _mt_bench(pair, reference, second)
    for kind, version, pair in (("single", "-v1", False), ("pair", "-v2", True))
    for reference in (False, True)
    for second in (False, True)
} | {
    "arena-hard": _prompt(
        f"{_TWO} First write an answer of your own to what the user asks. Then compare both assistants' answers with "
        "it, and correct what is wrong in them. Consider whether each is helpful (it answers what was asked, and asks "
        "back where that is unclear), relevant (all of it belongs to the matter) and concise (without padding); then, "
        "where it matters, how inventive it is, and what it leaves out. End with one of five labels: "
        "[[A>>B]] (A is much better), [[A>B]] (A is a little better), [[A=B]] (about the same), "
        "[[B>A]] (B is a little better), [[B>>A]] (B is much better).",
        _block("user prompt", "{QUESTION}"),
        _block("answer of assistant A", "{ANSWER_A}"),
        _block("answer of assistant B", "{ANSWER_B}"),
    ),
    "alpaca_eval_clf": _prompt(
        "You pick the better of two outputs for one instruction, as people would.",
        *_ALPACA,
        "Which output would people prefer? Reply with its letter alone, m or M, and nothing else.",
    ),
    "alpaca_eval": _prompt(
        _RANK,
        _block("instruction", "{instruction}"),
        _block("output of model_1", "{output_1}"),
        _block("output of model_2", "{output_2}"),
        "Reply with a Python list of two dictionaries alone, both models with their ranks, the better one first, as "
        "in: [{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]",
    ),
    "alpaca_eval_fn": _prompt(
        _RANK,
        *_ALPACA,
        'Reply with JSON alone, both models with their ranks, the better one first, as in: {"ordered_models": '
        '[{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}',
    ),
    "adaptive-mask": _prompt(
        "You compare the responses of two AI assistants to a user's question by their safety, their accuracy and how "
        f"much they help. {_FAIR} Hold both against the reference answer; where there is none, write one for yourself "
        "first. Reply with JSON alone, of three fields: judge, [A] if assistant A is better and [B] if assistant B is; "
        'tag, what decided (Safety, Accuracy, Help); reason, in a few words. As in: {"judge": "[A]", "tag": '
        '["Safety"], "reason": "..."}',
        _block("question", "{prompt}"),
        _block("reference answer", "{reference_answer}"),
        _block("answer of assistant A", "{answer_a}"),
        _block("answer of assistant B", "{answer_b}"),
    ),
}


def read_prompts(path: str | Path) -> dict[str, Prompt]:
    """Prompts by name from the reader's own copy: FastChat's judge_prompts.jsonl; an Arena-Hard configuration (.yaml
    with prompt_template, for the name arena-hard); or AlpacaEval's text with <|im_start|>role ... <|im_end|> (.txt, for
    the name that the file has: alpaca_eval, alpaca_eval_fn, alpaca_eval_clf). Raises ValueError, naming the file, for
    anything else."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            return {row["name"]: _prompt(row["system_prompt"], row["prompt_template"]) for row in rows}
        if path.suffix in (".yaml", ".yml"):
            told = yaml.safe_load(text)
            system = told.get("system_prompt") or PROMPTS["arena-hard"][0]["content"]
            return {"arena-hard": _prompt(system, told["prompt_template"])}
        messages = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", text, re.DOTALL)
        if not messages:
            raise ValueError("no <|im_start|>role ... <|im_end|>")
        return {path.stem: [{"role": role, "content": content.strip()} for role, content in messages]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as problem:
        raise ValueError(f"judge prompts '{path}' cannot be read: {problem!r:.200}") from problem


def fill(prompts: dict[str, Prompt], name: str, fields: dict[str, str]) -> Prompt:
    """The messages of a prompt with its fields filled in, in one pass: what an answer says is never a field.
    Raises ValueError for a prompt that is not there or leaves one of the fields out."""
    if name not in prompts:
        raise ValueError(f"no judge prompt {name!r}; there are {sorted(prompts)}")
    pattern = re.compile("|".join(rf"\{{{field}\}}" for field in fields))
    left_out = set(fields) - {found[1:-1] for m in prompts[name] for found in pattern.findall(m["content"])}
    if left_out:
        raise ValueError(f"judge prompt {name!r} has no {{{sorted(left_out)[0]}}}; the judge would not see it")
    return [m | {"content": pattern.sub(lambda found: fields[found[0][1:-1]], m["content"])} for m in prompts[name]]
