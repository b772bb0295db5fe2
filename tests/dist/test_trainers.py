"""What would break: a trainer that on two processes learns something else than on one."""

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densereward.text.models import load_causal_lm
from densereward.training.launch import launch
from report import engines
from report.notebooks import ROOT
from study.records import provenance, write_record

pytestmark = pytest.mark.dist
SCRIPT = Path(__file__).with_name("train_each.py")
PLAIN = "sft reward_model discriminator process figa dpo masked kto".split()
SAMPLING = "ppo appo macro implicit rloo grpo gtpo masked-grpo remax vine dense-grpo dense-rloo".split()
OUT = "ENGINES_OUT"  # environment: a file of records, for the book's table of what was compared


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """Every training on one process, without an engine."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, SCRIPT, models, out, *PLAIN, *SAMPLING], check=True, capture_output=True)
    return out


def numbers(folder: Path, what: str) -> list[float]:
    rows = json.loads((folder / f"{what}.json").read_text()) or []
    return [x for row in rows for x in (row.values() if isinstance(row, dict) else [row])]


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_every_trainer_learns_on_two_processes_what_it_learns_on_one(engine, models, alone, tmp_path, monkeypatch):
    """Losses and weights, batches split over the processes; and what is saved can be loaded, each weight its own."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    told, started = [], time.perf_counter()
    launch(
        [str(SCRIPT), str(models), str(tmp_path), *PLAIN, *SAMPLING],
        ROOT / f"configs/{engine}.yaml",
        2,
        say=told.append,
    )
    assert any("loss" in line for line in told), "nothing was heard of the training"
    for name in [*PLAIN, *SAMPLING]:
        for what in ("curve", "losses"):
            expected, found = (numbers(folder / name, what) for folder in (alone, tmp_path))
            assert found == pytest.approx(expected, abs=engines.MOST), f"{name}: {what}"
        assert expected, f"{name} told no loss"
        before, after = (load_file(folder / name / "model.safetensors") for folder in (alone, tmp_path))
        for weight, tensor in before.items():
            torch.testing.assert_close(after[weight], tensor, atol=2e-4, rtol=1e-4, msg=f"{name}: {weight}")
        if OUT in os.environ:
            row = {"kind": "engine", "engine": engine, "processes": 2, "trainer": name, "updates": len(expected)}
            row["loss"] = max(abs(a - b) for a, b in zip(expected, found))
            row["weight"] = max((after[weight] - tensor).abs().max().item() for weight, tensor in before.items())
            versions = {package: metadata.version(package) for package in ("deepspeed",)}
            write_record(os.environ[OUT], row | versions | {"provenance": provenance(0, "cpu", started)})
    load_causal_lm(tmp_path / "sft")


def test_rounds_say_that_they_are_made_on_one_process(models, tmp_path):
    """Where several would each learn from answers of their own, and none hear of it."""
    with pytest.raises(RuntimeError, match="ValueError: rs makes its rounds on one process, and this is one of 2"):
        launch([str(SCRIPT), str(models), str(tmp_path), "rs"], ROOT / "configs/ddp.yaml", 2, say=str)
