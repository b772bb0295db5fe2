"""Do edit labels find what people call an error? tlcr's labels of human minimal corrections, beside human error spans.

Data: Wu et al. 2023 (arXiv 2306.01693), long-form answers whose errors people marked as spans of characters, and which
they corrected. The answer is the rejected response, the correction its revision (tlcr Eq. 3); a token that the edit
takes out (Eq. 4) is said to be wrong, and is right in that if one of its characters lies in an error span. Spans count
characters (code points) of `prediction 1`, the only answer that is corrected.

    python -m study.measures.human_spans --data dev_feedback.json --tokenizer gpt2 --tokenizer FOLDER_OF_PHI_3

Left out: positive tokens, as nobody marked what is good, and the errors of what an answer leaves out, which have no
span.

Book: labels.md
"""

import gzip
import json
import re
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from transformers import AutoTokenizer

from densereward.labels.labeling import NEGATIVE, characters, text_labels
from densereward.labels.revision import checked
from densereward.seeding import rng
from densereward.text.offsets import token_offsets
from densereward.text.tokens import tokenize_responses
from study import command_line
from study.measures.constants import estimate, resamples
from study.measures.edit_labels import edited
from study.records import ROOT, provenance, write_record

RECORDS = ROOT / "data" / "results" / "human_spans.jsonl"


def read(path: str | Path) -> list[dict]:
    """Records of a JSON list, also as .gz: answer, corrected (texts), spans [(start, end, type)] in characters of the
    answer, missing (how many errors of omission). Raises ValueError, with file, line and mend, for what is none."""
    file = Path(path)
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
            text = lines.read()
        records = json.loads(text)
    except (EOFError, gzip.BadGzipFile, ValueError) as problem:
        raise ValueError(f"{file}: no JSON ({problem}); download it again, and keep it whole") from problem
    if not isinstance(records, list):
        raise ValueError(f"{file}: line 1: no list; write the records as one JSON list, [...]")
    rows = []
    for number, record in enumerate(records):
        try:
            said = record["feedback"]
            spans = [(e["start"], e["end"], e["error type"]) for e in said["errors"]]
            row = {"answer": record["prediction 1"], "corrected": said["corrected-prediction"], "spans": spans}
            if not all(isinstance(row[name], str) for name in ("answer", "corrected")):
                raise TypeError("'prediction 1' and 'corrected-prediction' are texts")
            if not all(type(at) is int for span in spans for at in span[:2]):
                raise TypeError("'start' and 'end' are whole numbers of characters")
            rows.append(row | {"missing": len(said["missing-info"])})
        except (KeyError, TypeError) as problem:
            what = f"no field {problem}" if isinstance(problem, KeyError) else problem
            line = f"{file}: line {_line(text, number)}: record {number}"
            raise ValueError(f"{line}: {what}; mend the record, or take it out") from problem
    return rows


def in_spans(tokenizer, ids: list[int], spans: list[tuple]) -> tuple[str, np.ndarray, np.ndarray]:
    """The text of ids [T], whether a token has text [T] (EOS has none), and whether it lies in each span [S, T]: bools.

    A token lies in a span (start, end, ...) if they share a character, be it one that takes several tokens."""
    text, offsets = token_offsets(tokenizer, ids)
    start, end = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    # of the tokens that spell one character offsets give it to the last; those before have a part of it, too
    amid = [part for group in characters(ids, tokenizer) for part in [*[True] * (len(group) - 1), False]]
    end = end + np.array(amid, dtype=np.int64)
    bounds = np.array([span[:2] for span in spans], dtype=np.int64).reshape(-1, 2, 1)
    return text, end > start, (np.maximum(start, bounds[:, 0]) < np.minimum(end, bounds[:, 1]))


def agreement(rows: list[dict], tokenizer, seed: int) -> dict:
    """How the tokens that corrections take out agree with error spans, over `read`'s rows.

    Returns counts: answers, spans, tokens, negative, base (share of tokens in spans), expected (precision of negatives
    placed at random in the same answers), dropped (by reason); and edit, indel and blocks (other ways to count edits,
    `edit_labels.ALIGNMENTS`), random (as many negatives as edit's, placed at random in the same answer) and all (every
    token negative), each precision, recall and f1 over all tokens, as (value, low, high) with a 95% bootstrap over
    answers; types, for each error type its spans, the recall of its tokens, and the share of its spans at least half
    taken out, by edit and random; missed, how often a token's text is in a span and not negative. Random: `seed`.
    Raises ValueError where no answer is left."""
    dropped, missed, made = Counter(), Counter(), []
    draw = rng(seed, "human spans", "placed")
    for row in rows:
        revision = checked(row["corrected"], row["answer"])
        ids, revised = tokenize_responses(tokenizer, [row["answer"], revision.text or ""])
        inside = [span for span in row["spans"] if 0 <= span[0] < span[1] <= len(row["answer"])]
        text, real, spans = in_spans(tokenizer, ids, inside)
        fate = revision.failure or ("same_tokens" if ids == revised else "respelt" if text != row["answer"] else None)
        if fate:
            dropped[fate] += 1
            continue
        dropped["span out of range"] += len(row["spans"]) - len(inside)
        negative = text_labels(ids, revised, tokenizer)[0] == NEGATIVE
        missed.update(tokenizer.decode([ids[i]]) for i in np.flatnonzero(spans.any(0) & ~negative))
        kinds, spans, negative = np.array([span[2] for span in inside]), spans[:, real], negative[real]
        others = [edited(name, ids, revised)[0][real] for name in ("indel", "blocks")]
        made.append((negative, draw.permutation(negative), *others, spans, kinds))
    if not made:
        raise ValueError(f"no answer is left (dropped: {dict(dropped)}); give answers with a correction of theirs")

    weights = resamples(len(made), rng(seed, "human spans", "answers"))  # [1 + R, N]
    edit, placed, indel, blocks, spans, kinds = zip(*made)
    every = [np.ones_like(x) for x in edit]
    wrong = [of.any(0) for of in spans]  # [T] each
    types = {}
    for kind in sorted({str(kind) for of in kinds for kind in of}):
        of_kind = [of[its == kind] for of, its in zip(spans, kinds)]  # [S, T] each
        types[kind] = {"spans": sum(map(len, of_kind))}
        for name, x in (("edit", edit), ("random", placed)):
            halves = [2 * (n & span).sum() >= span.sum() for n, of in zip(x, of_kind) for span in of]
            recall = _rates(x, [of.any(0) for of in of_kind], weights)["recall"]
            types[kind][name] = {"recall": recall, "half": float(np.mean(halves))}
    sizes = np.array([[len(x), x.sum(), w.sum()] for x, w in zip(edit, wrong)])  # [N, 3]
    tokens, negative, marked = sizes.sum(0)
    return {
        "answers": len(made),
        "spans": sum(map(len, kinds)),
        "tokens": int(tokens),
        "negative": int(negative),
        "base": float(marked / tokens),
        "expected": float((sizes[:, 1] * sizes[:, 2] / sizes[:, 0]).sum() / negative) if negative else float("nan"),
        "dropped": {reason: n for reason, n in dropped.items() if n},
        "edit": _rates(edit, wrong, weights),
        "indel": _rates(indel, wrong, weights),
        "blocks": _rates(blocks, wrong, weights),
        "random": _rates(placed, wrong, weights),
        "all": _rates(every, wrong, weights),
        "types": types,
        "missed": missed,
    }


def _rates(negative: list, wrong: list, weights: np.ndarray) -> dict[str, tuple]:
    """Precision, recall and f1 of masks [T] per answer, each (value, low, high), over answers by weights [1 + R, N]."""
    counts = np.array([[n.sum(), w.sum(), (n & w).sum()] for n, w in zip(negative, wrong)])
    said, true, both = (weights @ counts).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nan where there is none
        rates = {"precision": both / said, "recall": both / true, "f1": 2 * both / (said + true)}
        return {name: estimate(values) for name, values in rates.items()}


def _line(text: str, number: int) -> int:
    """The line on which a record of a JSON list begins."""
    start, end = 0, text.index("[") + 1
    for _ in range(number + 1):
        start = re.compile(r"[\s,]*").match(text, end).end()
        _, end = json.JSONDecoder().raw_decode(text, start)
    return text.count("\n", 0, start) + 1


def main(
    data: Annotated[Path, typer.Option(help="FineGrainedRLHF's dev_feedback.json, also as .gz")],
    tokenizer: Annotated[list[str], typer.Option(help="a folder or a hub's name; once for each")],
    seed: Annotated[int, typer.Option(help="of the bootstrap and of negatives placed at random")] = 0,
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
) -> None:
    """Append one record per tokenizer, of counts and rates."""
    with command_line.asking():
        rows = read(data)
        tokenizers = {Path(name).name: AutoTokenizer.from_pretrained(name) for name in tokenizer}
    for name, its in tokenizers.items():
        begun = time.perf_counter()
        found = agreement(rows, its, seed)
        del found["missed"]  # words of the answers
        record = {"kind": "human_spans", "tokenizer": name, **found}
        write_record(out, record | {"provenance": provenance(seed, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
