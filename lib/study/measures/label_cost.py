"""What edit labels cost: processor seconds and memory of labelling real pairs, each step by itself, as
one record.

    python -m study.measures.label_cost --dataset FOLDER_OF_HH_RLHF

The tokenizer is the pretrained model's (`pretrained.py`). The revision is the preferred answer, the longest edit there
is; what a reviser takes is its own affair (`asked.py` has a language model's). Left out: memory of each step by itself.

Book: labels.md
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoTokenizer

from densereward.labels import labeling, revision
from densereward.text import data, tokens
from study import command_line
from study.pretrained import FOLDER
from study.records import ROOT, provenance, write_record

RECORDS = ROOT / "data" / "results" / "label_cost.jsonl"
PAIRS, LONGEST = 1000, 512  # pairs, tokens of a prompt and of an answer


def measured(pairs: list[dict], tokenizer) -> dict:
    """Pairs, tokens of both sides, what was labelled by outcome, and processor seconds to tokenise, revise and
    label, which other work on the machine does not stretch."""
    marks = [time.process_time()]
    rows, _ = tokens.tokenize_pairs(pairs, tokenizer, LONGEST, LONGEST)
    marks.append(time.process_time())
    texts = revision.conversations(rows, tokenizer)
    made = revision.revise_rows(lambda _, rejected, chosen: revision.checked(chosen, rejected), texts)
    marks.append(time.process_time())
    labelled, report = labeling.labelled(rows, made, tokenizer, LONGEST)
    marks.append(time.process_time())
    steps = zip(("tokenise", "revise", "label"), marks, marks[1:])
    found = {"pairs": len(pairs), "tokens": sum(map(len, labelled["completion_ids"])), "report": vars(report)}
    return found | {"seconds": {name: round(end - start, 3) for name, start, end in steps}}


def main(
    dataset: Annotated[Path, typer.Option(help="preference pairs, HH-RLHF's folder")],
    model: Annotated[Path, typer.Option(help="the folder whose tokenizer is used")] = FOLDER,
    out: Annotated[Path, typer.Option(help="records file")] = RECORDS,
) -> None:
    """Label the first PAIRS pairs on helpfulness, and append one record."""
    with command_line.asking():
        helpful = dataset / "helpful-base"
        pairs = data.read_pairs(helpful if helpful.is_dir() else dataset)[0][:PAIRS]
        tokenizer = AutoTokenizer.from_pretrained(model)
    begun = time.perf_counter()
    record = {"kind": "label cost", "tokenizer": model.name, **measured(pairs, tokenizer)}
    write_record(out, record | {"provenance": provenance(None, "cpu", begun)})


app = command_line.command(main)

if __name__ == "__main__":
    app()
