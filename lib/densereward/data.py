"""Preference data: from records of files, or of the testbed, to TRL's conversational format, to splits.

A pair is TRL's `{"prompt": [message, ...], "chosen": [message], "rejected": [message]}`; the prompt is everything up to
the last assistant turn, shared by both. Records are HH-RLHF's (two dialogues as text) or TRL's, with or without prompt.
What cannot serve as a pair is dropped and counted in a `Report`; what is no record at all stops the run, with the file,
line, field and mend.
Left out: streaming, images, tools; a seed cannot draw new pairs from real data as it does on the testbed.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from datasets import Dataset

SUFFIXES = (".jsonl", ".jsonl.gz")
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
# Of the conversations. What is not held out goes 20 / 40 / 40% to SFT, rewards and RL (tlcr Section 5).
SHARES = {"sft": 0.17, "preference": 0.34, "ppo": 0.34, "validation": 0.05, "test": 0.10}


@dataclass
class Report:
    """What became of the rows of one step; `read` is `kept` plus everything dropped. As text: what occurred."""

    read: int = 0
    kept: int = 0
    identical: int = 0  # dropped: chosen and rejected are one dialogue
    early_divergence: int = 0  # dropped: they differ before the last assistant turn, so there is no shared prompt
    not_a_reply: int = 0  # dropped: the last assistant turn answers no user turn, or another turn follows it
    empty: int = 0  # dropped: a turn without text
    same_tokens: int = 0  # dropped: equal completion ids, as when both are cut before they differ
    merged_turns: int = 0  # of the kept: neighbouring prompt turns of one role became one message
    prompts_cut: int = 0  # of the kept: prompts longer than the limit
    responses_cut: int = 0  # of the kept: responses (two per pair) longer than the limit

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in asdict(self).items() if n or name == "kept")


def load(
    dataset: str, seed: int = 0, world=None, contrast: float = 0.0, **sizes: int
) -> tuple[dict[str, Dataset], Report]:
    """Splits of "testbed" (from a testbed.world.World) or of the pairs at a path, and a report on the pairs.

    `sizes` names the splits and the most rows of each (`preference=500`); without any, all splits come. `sft` has
    columns prompt, completion; `preference`, `validation`, `test` prompt, chosen, rejected; `ppo` prompt. `contrast` is
    the testbed's share of contrast pairs. Raises ValueError for a bad dataset, size or record.
    """
    for name, size in sizes.items():
        if name not in SHARES or not isinstance(size, int) or size < 1:
            raise ValueError(f"size {name}={size!r}: give one of {', '.join(SHARES)} a whole number above 0")
    if contrast and dataset != "testbed":
        raise ValueError(f"contrast is {contrast}: only the testbed can draw contrast pairs; set it to 0 for {dataset}")
    if dataset == "testbed":
        from densereward.testbed import build
        from densereward.testbed import world as testbed

        parts, report = check_splits(build.build(world or testbed.World(), seed, contrast, **sizes))
    else:
        pairs, report = read_pairs(dataset)
        parts = splits(pairs, seed)
    return {
        name: part.select(range(min(len(part), sizes.get(name, len(part)))))
        for name, part in parts.items()
        if not sizes or name in sizes
    }, report


def read_pairs(path: str | Path) -> tuple[list[dict], Report]:
    """The usable pairs of a .jsonl or .jsonl.gz file, or of all such files below a folder, in the order of their paths.

    Raises ValueError for a path without such files and for the first malformed record (file, line, field, mend).
    """
    report = Report()
    pairs = [pair for file in files(path) for pair in _file_pairs(file, report)]
    if not pairs:
        raise ValueError(
            f"dataset '{path}' has no usable pair ({report}); give one with two different replies to a prompt"
        )
    return pairs, report


def files(path: str | Path) -> list[Path]:
    """The .jsonl and .jsonl.gz files that a dataset's path stands for. ValueError where there is none."""
    path = Path(path).expanduser()
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [file for file in found if file.is_file() and file.name.endswith(SUFFIXES)]
    if not found:
        what = "has no .jsonl or .jsonl.gz file" if path.exists() else "does not exist"
        raise ValueError(f"dataset '{path}' {what}; give 'testbed', a .jsonl or .jsonl.gz file, or a folder of them")
    return found


def _file_pairs(file: Path, report: Report) -> Iterator[dict]:
    number = 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as lines:
            for line in lines:
                number += 1
                if line.strip() and (pair := to_pair(_record(line), report)):
                    yield pair
    except (EOFError, OSError, zlib.error) as problem:  # a cut or damaged download
        raise ValueError(f"{file}, line {number + 1}: cannot be read ({problem}); fetch the file again") from problem
    except ValueError as problem:
        raise ValueError(f"{file}, line {number}, {problem}") from problem


def _record(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError as problem:
        what = f"{problem.msg}, column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else problem
        raise ValueError(f"whole record: {what}; write one JSON object per line, in UTF-8") from problem


def to_pair(record: dict, report: Report) -> dict | None:
    """One record as a pair, or None where it cannot serve as one; counted in the report. Further columns stay behind.

    chosen and rejected are HH-RLHF dialogues or lists of messages, or follow an explicit prompt (text or messages).
    Raises ValueError, naming the field, where they are not.
    """
    if not isinstance(record, dict):
        raise ValueError(f'whole record: found {record!r:.60}; write {{"chosen": ..., "rejected": ...}}')
    chosen, rejected = _dialogue(record, "chosen"), _dialogue(record, "rejected")
    at, other_at = _last_reply(chosen, "chosen"), _last_reply(rejected, "rejected")
    prompt = chosen[:at]
    fate = "kept"
    if chosen == rejected:
        fate = "identical"
    elif prompt != rejected[:other_at]:
        fate = "early_divergence"
    elif not prompt or prompt[-1]["role"] != "user" or len(chosen) > at + 1 or len(rejected) > at + 1:
        fate = "not_a_reply"
    elif not all(turn["content"] for turn in chosen + rejected):
        fate = "empty"
    report.read += 1
    setattr(report, fate, getattr(report, fate) + 1)
    if fate != "kept":
        return None
    turns = [(role, [m["content"] for m in group]) for role, group in groupby(prompt, lambda m: m["role"])]
    report.merged_turns += len(turns) < len(prompt)  # merged, as many chat templates insist that roles alternate
    prompt = [{"role": role, "content": "\n\n".join(contents)} for role, contents in turns]
    return {"prompt": prompt, "chosen": chosen[at:], "rejected": rejected[at:]}


def _dialogue(record: dict, field: str) -> list[dict]:
    if field not in record:
        raise ValueError(f"field '{field}': missing, there is {sorted(record)}; add it")
    prompt, answer = record.get("prompt"), record[field]
    if prompt is None:
        return to_messages(answer, field)
    if isinstance(prompt, str) and isinstance(answer, str) and TURN.match(prompt):
        return to_messages(prompt + answer, field)  # an HH-RLHF dialogue that was cut before its last reply
    prompt, answer = to_messages(prompt, "prompt", "user"), to_messages(answer, field, "assistant")
    return answer if answer[: len(prompt)] == prompt else prompt + answer  # some sets repeat the prompt in the answer


def to_messages(value: str | list[dict], field: str, role: str | None = None) -> list[dict]:
    """Checked messages, contents stripped, of messages, one message's text (give its `role`) or an HH-RLHF dialogue."""
    if isinstance(value, str) and role is None:
        return parse(_text(value, field), field)
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"field '{field}': found {value!r:.60}; write text or a list of messages")
    for i, message in enumerate(value):
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise ValueError(
                f"field '{field}[{i}]': found {message!r:.60}; give it a role of system, user or assistant"
            )
    return [
        {"role": m["role"], "content": _text(m.get("content"), f"{field}[{i}].content").strip()}
        for i, m in enumerate(value)
    ]


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field '{field}': found {value!r:.60}; write text, or remove the record")
    if not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise ValueError(f"field '{field}': half of a surrogate pair; replace the broken character")
    return value


def parse(text: str, field: str = "text") -> list[dict]:
    """An HH-RLHF dialogue as messages, contents stripped. Raises ValueError where it does not start with a turn."""
    before, *parts = TURN.split(text)
    if before.strip() or not parts:
        raise ValueError(
            f"field '{field}': starts with {text[:40]!r}; write '\\n\\nHuman: ...\\n\\nAssistant: ...' or add a prompt"
        )
    return [{"role": ROLES[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def _last_reply(dialogue: list[dict], field: str) -> int:
    replies = [i for i, message in enumerate(dialogue) if message["role"] == "assistant"]
    if not replies:
        raise ValueError(f"field '{field}': no Assistant turn; add the reply that was judged, or remove the record")
    return replies[-1]


def check_splits(parts: dict[str, Iterable[dict]]) -> tuple[dict[str, Dataset], Report]:
    """Ready-made splits after the checks that records of files go through; further columns stay. Raises ValueError."""
    checked, report = {}, Report()
    for name, part in parts.items():
        checked[name] = []
        for i, row in enumerate(part):
            try:
                fields = {"prompt": "user", "completion": "assistant"}
                texts = {field: to_messages(row[field], field, role) for field, role in fields.items() if field in row}
                texts = to_pair(row, report) if "chosen" in row else texts
            except ValueError as problem:
                raise ValueError(f"split '{name}', row {i}, {problem}") from problem
            if texts:
                checked[name].append({**row, **texts})
    return {name: table(rows, f"split '{name}'") for name, rows in checked.items()}, report


def splits(pairs: list[dict], seed: int) -> dict[str, Dataset]:
    """Pairs as the splits of `load`, whole conversations together: no opening turn, hence no prompt, is in two of them.

    A hash of the opening user turn alone decides the split, so neither a seed nor further data move a test prompt into
    training. The seed orders `preference` and `ppo` (each prompt once); the others have one order for all seeds.
    Raises ValueError where a split stays empty.
    """
    parts, bounds = {name: [] for name in SHARES}, np.cumsum(list(SHARES.values()))
    for pair in sorted(pairs, key=lambda pair: (_hash(json.dumps(pair["prompt"])), json.dumps(pair))):
        opening = next(message["content"] for message in pair["prompt"] if message["role"] == "user")
        draw = _hash(" ".join(opening.casefold().split())) * bounds[-1]
        parts[list(SHARES)[np.searchsorted(bounds, draw, side="right")]].append(pair)
    parts["sft"] = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in parts["sft"]]
    parts["ppo"] = [
        {"prompt": prompt} for prompt in {str(pair["prompt"]): pair["prompt"] for pair in parts["ppo"]}.values()
    ]
    for name in ("preference", "ppo"):
        parts[name] = [parts[name][i] for i in np.random.default_rng(seed).permutation(len(parts[name]))]
    return {name: table(rows, f"split '{name}'") for name, rows in parts.items()}


def _hash(text: str) -> float:
    """Uniform on [0, 1), the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def table(rows: list[dict], name: str) -> Dataset:
    """Rows as a Dataset; ValueError, naming the split, where none is left."""
    if not rows:
        raise ValueError(f"{name} has no rows left; give more data, or longer limits where they were cut")
    return Dataset.from_list(rows)
