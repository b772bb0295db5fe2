"""Preference data as others release it: records of files or of the hub, as `data.to_pair` takes them. A record is told
by its columns:

- preference-700K, UltraFeedback binarized, full-hh-rlhf: chosen and rejected, with or without the prompt. As they are.
- UltraFeedback: an `instruction` and `completions` with an `overall_score` each. The best answer against the worst.
- HelpSteer: a `response` a row and its `helpfulness`, rows of one `prompt` together. The best against the worst.
- PRM800K: a `question`, and in `label` a solution's steps with rated completions. Of each step that has both, one rated
  1 against one rated -1, behind the steps before it.

Left out: other ratings, further pairs of a prompt.

Book: real_text.md
"""

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pyarrow
import pyarrow.parquet

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def is_hub_name(path: str | Path) -> bool:
    """Whether `path` can only be a data set on the hub: owner/name, and no file or folder here."""
    name = str(path)
    return bool(re.fullmatch(r"[\w-]+/[\w.-]+", name)) and not name.endswith(SUFFIXES) and not Path(name).exists()


def from_hub(name: str) -> Path:
    """A file of the train split of a data set on the hub, in `datasets`' cache. ValueError where it cannot be had."""
    file = Path(datasets.config.HF_DATASETS_CACHE, "densereward", name, "train.parquet")
    if not file.exists():
        try:
            rows = datasets.load_dataset(name, split="train")
        except Exception as problem:  # of many kinds, as there are ways to have no network
            what = f"dataset '{name}' does not exist here, and is not to be had from the hub ({problem!r:.80})"
            raise ValueError(f"{what}; give files, or unset HF_HUB_OFFLINE where there is a network") from problem
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent) as own:  # two processes may fetch it at once
            rows.to_parquet(Path(own, file.name))
            os.replace(Path(own, file.name), file)
    return file


def records(file: Path) -> Iterator[object]:
    """The records of a file; None for a blank line. ValueError for a line that is none, OSError for a broken file."""
    if file.suffix.lower() == ".parquet":
        try:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1_000):
                yield from batch.to_pylist()
        except pyarrow.ArrowInvalid as problem:
            raise OSError(problem) from problem
        return
    with (gzip.open if file.suffix.lower() == ".gz" else open)(file, "rb") as lines:
        for line in lines:
            yield _record(line) if line.strip() else None


def _record(line: bytes) -> object:
    try:
        return json.loads(line, object_pairs_hook=_fields)
    except ValueError as problem:
        what = f"{problem.msg}, column {problem.colno}" if isinstance(problem, json.JSONDecodeError) else problem
        raise ValueError(f"whole record: {what}; write one JSON object per line, in UTF-8") from problem


def _fields(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise ValueError(f"field '{twice}' stands there twice")
    return fields


def as_pairs(found: Iterable, report, columns: dict[str, str] | None = None) -> Iterator[object]:
    """Records as `data.to_pair` takes them; `columns` says what ours are called there, as {"chosen": "theirs"}. Answers
    without another that is rated differently count as `report.unrated`. ValueError for a column that is not there."""
    ours = (_renamed(record, columns or {}) for record in found if record is not None)
    for (kind, _), rows in groupby(ours, _kind):
        rows = list(rows) if kind == "HelpSteer" else [next(rows)]  # reading on would move the line that errors name
        try:
            made = KINDS[kind](rows)
        except (KeyError, TypeError, IndexError) as problem:
            raise ValueError(f"whole record: no {problem}, which a record of {kind} has; add it") from problem
        report.read += not made
        report.unrated += not made
        yield from made


def _renamed(record: object, columns: dict[str, str]) -> object:
    if not isinstance(record, dict):
        return record
    if missing := [theirs for theirs in columns.values() if theirs not in record]:
        raise ValueError(f"field '{missing[0]}': missing, there is {sorted(record)}; name another column")
    rest = {name: x for name, x in record.items() if name not in columns.values()}
    return rest | {name: record[theirs] for name, theirs in columns.items()}


def _kind(record: object) -> tuple[str, object]:
    """Whose a record is, and what it shares with the rows that belong to it."""
    has = set(record) if isinstance(record, dict) else set()
    if not has & {"chosen", "rejected"}:
        if {"prompt", "response", "helpfulness"} <= has:
            return "HelpSteer", record["prompt"]
        if {"instruction", "completions"} <= has or {"question", "label"} <= has:
            return "UltraFeedback" if "instruction" in has else "PRM800K", object()
    return "pairs", object()


def _best_and_worst(prompt: str, rated: list[tuple[float, str]]) -> list[dict]:
    best, worst = (pick(rated, key=lambda answer: answer[0], default=(0, "")) for pick in (max, min))
    return [{"prompt": prompt, "chosen": best[1], "rejected": worst[1]}] if best[0] > worst[0] else []


def _steps(row: dict) -> list[dict]:
    made, before = [], []
    for step in row["label"]["steps"]:
        answers, taken = step["completions"] or [], step["chosen_completion"]
        good, bad = ([a["text"] for a in answers if a["rating"] == rating] for rating in (1, -1))
        if good and bad:
            chosen, rejected = ("\n".join([*before, text]) for text in (good[0], bad[0]))
            made.append({"prompt": row["question"]["problem"], "chosen": chosen, "rejected": rejected})
        goes_on = step["human_completion"] if taken is None else answers[taken]
        if goes_on is None:
            break
        before.append(goes_on["text"])
    return made


KINDS = {
    "pairs": list,
    "HelpSteer": lambda r: _best_and_worst(r[0]["prompt"], [(x["helpfulness"], x["response"]) for x in r]),
    "UltraFeedback": lambda r: _best_and_worst(
        r[0]["instruction"], [(x["overall_score"], x["response"]) for x in r[0]["completions"]]
    ),
    "PRM800K": lambda r: _steps(r[0]),
}
