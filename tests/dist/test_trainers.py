"""What would break: a trainer that on two processes learns something else than on one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densereward.text.models import load_causal_lm
from densereward.training.launch import launch
from report.notebooks import ROOT

pytestmark = pytest.mark.dist
SCRIPT = Path(__file__).with_name("train_each.py")
PLAIN = "sft reward_model discriminator process figa dpo masked kto".split()
SAMPLING = "ppo appo rloo grpo masked-grpo remax dense-grpo dense-rloo".split()


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """Every training on one process, without an engine."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, SCRIPT, models, out, *PLAIN, *SAMPLING], check=True, capture_output=True)
    return out


def numbers(folder: Path) -> list[float]:
    rows = json.loads((folder / "curve.json").read_text()) or []
    return [x for row in rows for x in (row.values() if isinstance(row, dict) else [row])]


@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_every_trainer_learns_on_two_processes_what_it_learns_on_one(engine, models, alone, tmp_path, monkeypatch):
    """Losses and weights, batches split over the processes; and what is saved can be loaded, each weight its own."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    told = []
    launch(
        [str(SCRIPT), str(models), str(tmp_path), *PLAIN, *SAMPLING],
        ROOT / f"configs/{engine}.yaml",
        2,
        say=told.append,
    )
    assert any("loss" in line for line in told), "nothing was heard of the training"
    for name in [*PLAIN, *SAMPLING]:
        expected, found = numbers(alone / name), numbers(tmp_path / name)
        assert found == pytest.approx(expected, abs=1e-4), name
        before, after = (load_file(folder / name / "model.safetensors") for folder in (alone, tmp_path))
        for weight, tensor in before.items():
            torch.testing.assert_close(after[weight], tensor, atol=2e-4, rtol=1e-4, msg=f"{name}: {weight}")
    load_causal_lm(tmp_path / "sft")
