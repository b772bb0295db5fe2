"""Preference data: from records of files, or of the testbed, to TRL's conversational format, to splits.

A pair is TRL's `{"prompt": [message, ...], "chosen": [message], "rejected": [message]}`; the prompt is everything up to
the last assistant turn, shared by both. Records are HH-RLHF's (two dialogues as text) or TRL's, with or without prompt,
or what `formats.py` makes into these.
What cannot serve as a pair is dropped and counted in a `Report`; what is no record at all stops the run, with the file,
line, field and mend.
Left out: streaming, images, tools; a seed cannot draw new pairs from real data as it does on the testbed.

Book: real_text.md
"""

import hashlib
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from datasets import Dataset

from densereward.checked import DATASET
from densereward.text import formats

TURN = re.compile(r"\n\n(Human|Assistant):")
MARKER = re.compile(r"\s*(Human|Assistant):")
WRITE = "write '\\n\\nHuman: ...\\n\\nAssistant: ...'"
BESIDE = ("history", "input", "context", "images", "tools")  # what other formats hold beside a prompt
ROLES = {"Human": "user", "Assistant": "assistant"}
# Of the conversations. What is not held out goes 20 / 40 / 40% to SFT, rewards and RL (tlcr Section 5).
SHARES = {"sft": 0.17, "preference": 0.34, "ppo": 0.34, "validation": 0.05, "test": 0.10}
PARTS = (*SHARES, "gold")  # the last: the pairs whose prompts are `ppo`, for a reward model that only judges


@dataclass
class Report:
    """What became of the rows of one step; `read` is `kept` plus everything dropped. As text: what occurred."""

    read: int = 0
    kept: int = 0
    identical: int = 0  # dropped: chosen and rejected are one dialogue
    early_divergence: int = 0  # dropped: they differ before the last assistant turn, so there is no shared prompt
    not_a_reply: int = 0  # dropped: the last assistant turn answers no user turn, or another turn follows it
    empty: int = 0  # dropped: a turn without text
    unrated: int = 0  # dropped: answers, or steps, without another to the same prompt that is rated otherwise
    duplicates: int = 0  # dropped: both dialogues are those of an earlier pair
    same_tokens: int = 0  # dropped: equal completion ids, as when both are cut before they differ
    merged_turns: int = 0  # of the kept: neighbouring prompt turns of one role became one message
    prompts_repeated: int = 0  # of the kept: chosen repeats the prompt, which is taken once
    prompts_cut: int = 0  # of the kept: prompts longer than the limit
    responses_cut: int = 0  # of the kept: responses (two per pair) longer than the limit
    special_spelt: int = 0  # of the kept: texts that spell a special token, read as characters
    border_differs: int = 0  # of the kept: conversations that the chat template renders otherwise than ids say
    hidden_files: int = 0  # not read, nor counted above: files whose name, or folder's name, begins with a dot

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in asdict(self).items() if n or name == "kept")


def load(
    dataset: str | Path, seed: int = 0, columns: dict[str, str] | None = None, **sizes: int
) -> tuple[dict[str, Dataset], Report]:
    """Splits of the pairs at a path, or of a data set on the hub, and a report on the pairs. `columns` as in
    `formats.as_pairs`.

    `sizes` names the splits and the most rows of each (`preference=500`); without any, all splits come. `sft` has
    columns prompt, completion; `preference`, `validation`, `test`, `gold` prompt, chosen, rejected; `ppo` prompt.
    Raises ValueError for a bad dataset, size or record.
    """
    check_sizes(sizes, PARTS)
    pairs, report = read_pairs(dataset, columns)
    return {
        name: part.select(range(min(len(part), sizes.get(name, len(part)))))
        for name, part in splits(pairs, seed).items()
        if not sizes or name in sizes
    }, report


def check_sizes(sizes: dict[str, int], names: Iterable[str] = SHARES) -> None:
    """Raises ValueError for a split that is none of `names`, and for a size below 1."""
    for name, size in sizes.items():
        if name not in names or not isinstance(size, int) or size < 1:
            raise ValueError(f"size {name}={size!r}: give one of {', '.join(names)} a whole number above 0")


def read_pairs(path: str | Path, columns: dict[str, str] | None = None) -> tuple[list[dict], Report]:
    """The usable pairs of a .jsonl, .jsonl.gz or .parquet file, of all such files below a folder, in the order of their
    paths, or of a data set on the hub; folders that are links are entered, hidden files left out. Of equal pairs the
    first is kept.

    Raises ValueError for a path without such files and for the first malformed record (file, line, field, mend).
    """
    report, seen = Report(), set()
    pairs = [pair for file in files(path, report) for pair in _file_pairs(file, report, seen, columns)]
    if not pairs:
        raise ValueError(
            f"dataset '{path}' has no usable pair ({report}); give one with two different replies to a prompt"
        )
    return pairs, report


def files(path: str | Path, report: Report | None = None) -> list[Path]:
    """The files that a dataset's path, or its name on the hub, stands for; hidden ones are counted in the report, if
    given. ValueError where there is none, for links to nothing, and for folders that cannot be read."""
    path, report = Path(path).expanduser(), report or Report()
    if len(path.name) > 255:
        raise ValueError(f"dataset '{path.name:.80}...' is too long for the name of a file; give {DATASET}")
    if formats.is_hub_name(path):
        return [formats.from_hub(str(path))]
    found = _files_below(path, report) if path.is_dir() else [path] if path.is_file() and _is_data(path) else []
    if not found:
        what = "has no .jsonl, .jsonl.gz or .parquet file" if path.exists() else "does not exist"
        raise ValueError(f"dataset '{path}' {what}; give {DATASET}")
    return found


def _is_data(path: Path) -> bool:
    return path.name.lower().endswith(formats.SUFFIXES)


def _files_below(folder: Path, report: Report) -> list[Path]:
    def refuse(problem: OSError) -> None:
        raise ValueError(f"folder '{problem.filename}' cannot be read ({problem}); mend its permissions, or remove it")

    found, entered = [], set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(parent) in entered:  # links that lead in a circle
            folders.clear()
            continue
        folders.sort()
        entered.add(os.path.realpath(parent))
        hidden = any(part.startswith(".") for part in Path(parent).relative_to(folder).parts)
        for file in (Path(parent, name) for name in names):
            if hidden or file.name.startswith("."):
                report.hidden_files += _is_data(file)
            elif file.is_symlink() and not file.exists() and (_is_data(file) or not file.suffix):
                raise ValueError(f"'{file}' is a link to nothing; mend or remove it")
            elif file.is_file() and _is_data(file):
                found.append(file)
    return sorted(found)


def _file_pairs(file: Path, report: Report, seen: set, columns: dict[str, str] | None = None) -> Iterator[dict]:
    number = 0

    def counted(found: Iterator) -> Iterator:
        nonlocal number
        number = 1
        for record in found:
            yield record
            number += 1

    try:
        for record in formats.as_pairs(counted(formats.records(file)), report, columns):
            if pair := to_pair(record, report, seen):
                yield pair
    except (EOFError, OSError, zlib.error) as problem:  # a cut or damaged download
        raise ValueError(f"{file}, line {number}: cannot be read ({problem}); fetch the file again") from problem
    except RecursionError:
        raise ValueError(f"{file}, line {number}, whole record: nested too deeply; remove the record") from None
    except ValueError as problem:
        raise ValueError(f"{file}, line {number}, {problem}") from problem


def to_pair(record: dict, report: Report, seen: set | None = None) -> dict | None:
    """One record as a pair, or None where it cannot serve as one or equals one in `seen`, which it is added to; counted
    in the report. Further columns stay behind.

    chosen and rejected are HH-RLHF dialogues or lists of messages, or follow an explicit prompt (text or messages),
    which they may repeat. Raises ValueError, naming the field, where they are not.
    """
    if not isinstance(record, dict):
        raise ValueError(f'whole record: found {record!r:.60}; write {{"chosen": ..., "rejected": ...}}')
    (chosen, repeats), (rejected, _) = _dialogue(record, "chosen"), _dialogue(record, "rejected")
    at, other_at = _last_reply(chosen, "chosen"), _last_reply(rejected, "rejected")
    prompt = chosen[:at]
    fate = "kept"
    if chosen == rejected:
        fate = "identical"
    elif prompt != rejected[:other_at]:
        fate = "early_divergence"
    elif not prompt or prompt[-1]["role"] != "user" or len(chosen) > at + 1 or len(rejected) > at + 1:
        fate = "not_a_reply"
    elif any(blank(turn["content"]) for turn in chosen + rejected):
        fate = "empty"
    elif seen is not None:
        pair = hashlib.blake2b(json.dumps([chosen, rejected]).encode(), digest_size=16).digest()
        fate = "duplicates" if pair in seen else "kept"
        seen.add(pair)
    as_text = any(isinstance(record.get(x), str) and _rendered(record[x]) for x in ("prompt", "chosen"))
    if fate == "kept" and not as_text:  # what such a dialogue's turns hold, people wrote
        _refuse_markers(prompt, [chosen[at]["content"], rejected[at]["content"]])
    report.read += 1
    setattr(report, fate, getattr(report, fate) + 1)
    if fate != "kept":
        return None
    report.prompts_repeated += repeats
    turns = [(role, [m["content"] for m in group]) for role, group in groupby(prompt, lambda m: m["role"])]
    report.merged_turns += len(turns) < len(prompt)  # merged, as many chat templates insist that roles alternate
    prompt = [{"role": role, "content": "\n\n".join(contents)} for role, contents in turns]
    return {"prompt": prompt, "chosen": chosen[at:], "rejected": rejected[at:]}


def _dialogue(record: dict, field: str) -> tuple[list[dict], bool]:
    """Prompt and answer as one dialogue, and whether the answer repeated the prompt."""
    if field not in record:
        raise ValueError(f"field '{field}': missing, there is {sorted(record)}; add it")
    prompt, answer, repeats = record.get("prompt"), record[field], False
    if prompt is None or prompt == [] or (isinstance(prompt, str) and blank(prompt)):
        dialogue = to_messages(answer, field)
    else:
        for name in BESIDE:
            if record.get(name) and record[name] != prompt:
                raise ValueError(
                    f"field '{name}': would be lost; put it into the prompt, or rename it if it is no text"
                )
        cut, whole = (
            isinstance(x, str) and _rendered(_text(x, name)) for x, name in ((prompt, "prompt"), (answer, field))
        )
        if cut and not whole and isinstance(answer, str):  # an HH-RLHF dialogue that was cut before its last reply
            dialogue = parse(cut + answer, field)
        else:
            if isinstance(prompt, str) and not cut and MARKER.match(prompt):
                raise ValueError(f"field 'prompt': {prompt[:40]!r} holds a turn's name as text; {WRITE}")
            turns = parse(cut, "prompt") if cut else to_messages(prompt, "prompt", "user")
            if cut and not turns[-1]["content"]:
                turns.pop()
            dialogue, repeats = _joined(
                turns, to_messages(whole or answer, field, None if whole else "assistant"), field
            )
    for name in ("system", "system_prompt"):
        if record.get(name) is not None and not blank(_text(record[name], name)):
            system = {"role": "system", "content": record[name].strip()}
            if dialogue[0]["role"] == "system" and dialogue[0] != system:
                raise ValueError(f"field '{name}': differs from the system turn of '{field}'; leave one of them out")
            dialogue = [system, *dialogue[dialogue[0] == system :]]
    return dialogue, repeats


def _joined(prompt: list[dict], answer: list[dict], field: str) -> tuple[list[dict], bool]:
    """Prompt and answer as one dialogue, and whether the answer repeated the prompt: from its start, from one of its
    later turns, or, where the prompt is a later turn of the answer's dialogue, as that. Raises ValueError where the
    answer begins another dialogue."""

    def said(turns: list[dict]) -> list[tuple]:
        return [(m["role"], " ".join(m["content"].split())) for m in turns if m["role"] != "system"]

    ours, theirs = said(prompt), said(answer)
    system = [[m for m in turns if m["role"] == "system"] for turns in (prompt, answer)]
    if ours and any(theirs[i : i + len(ours)] == ours for i in range(len(theirs))):
        if theirs[: len(ours)] == ours or theirs[0][0] == "user":
            if all(system) and system[0] != system[1]:
                raise ValueError(f"field '{field}': has another system turn than the prompt; leave one of them out")
            return (answer if system[1] else system[0] + answer), True
    if theirs and theirs[0][0] == "user" and not system[1]:
        for n in range(min(len(ours), len(theirs) - 1), 0, -1):
            if ours[-n:] == theirs[:n]:
                return prompt + answer[n:], True
    goes_on = prompt[-1]["role"] == "assistant" and ours[0] not in theirs
    if answer[0]["role"] == "assistant" or (goes_on and answer[0]["role"] == "user"):
        return prompt + answer, False
    raise ValueError(
        f"field '{field}': begins with another turn than the prompt's; write the prompt once, and the same"
    )


def _rendered(text: str) -> str:
    """The text as an HH-RLHF dialogue as released, or "" where it is none: with newlines alone and, if a further turn
    follows, with the blank line before its first turn that stripping has taken away."""
    text = text.replace("\r\n", "\n")
    further = MARKER.match(text) and TURN.search(text.lstrip())
    return "\n\n" + text.lstrip() if TURN.match(text) or further else ""


def _refuse_markers(prompt: list[dict], replies: list[str]) -> None:
    """ValueError where turns that no rule above could tell apart would be learnt as text."""
    users = [message["content"] for message in prompt if message["role"] == "user"]
    for text in users:
        begins, ends = text.startswith("Human:") and "Assistant:" in text, text.endswith("Assistant:")
        if begins or (ends and "\nHuman:" in text):
            raise ValueError(f"field 'prompt': {text[:40]!r} holds turns as text; {WRITE}")
    if all(map(MARKER.match, replies)):
        raise ValueError(f"field 'chosen': {replies[0][:40]!r} holds a turn's name as text; {WRITE}")
    if len(users[-1]) >= 40 and all(reply.startswith(users[-1]) for reply in replies):
        raise ValueError(f"field 'chosen': both replies repeat the prompt {users[-1][:40]!r}; leave it out of them")


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


def blank(text: str) -> bool:
    """Whether a text shows nothing: spaces, control and format characters (zero-width ones) alone."""
    return all(unicodedata.category(c)[0] in "ZC" for c in text)


def parse(text: str, field: str = "text") -> list[dict]:
    """An HH-RLHF dialogue as messages, contents stripped. Raises ValueError where it does not start with a turn."""
    before, *parts = TURN.split(_rendered(text) or text)
    if before.strip() or not parts:
        raise ValueError(f"field '{field}': starts with {text[:40]!r}; {WRITE}, or add a prompt")
    return [{"role": ROLES[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def refuse_long_prompts(lengths: Iterable[int], limit: int) -> None:
    """ValueError, with counts and the mend, where none of the prompts, given by their lengths in tokens, is within the
    limit: longer ones are left out of rollouts, and cut everywhere else."""
    found = []
    for length in lengths:
        if length <= limit:
            return
        found.append(length)
    if found:
        raise ValueError(
            f"all {len(found)} prompts exceed {limit} tokens (shortest {min(found)}, longest {max(found)}); "
            "raise max_prompt_length, or give data with shorter prompts"
        )


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
    """Pairs as the splits of `load`, whole conversations together: no opening turn, hence no prompt, is in two of them,
    but for `gold`, the pairs that `ppo` has the prompts of.

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
    parts["gold"] = parts["ppo"]
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
