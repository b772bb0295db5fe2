"""What would break: PPO on several devices that trains only the policy, or only one process's share of it.

Run with `make test-dist`. The first run compiles DeepSpeed's communication op: a C++ compiler and a minute or two.
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from densereward.text.models import TokenScorer

pytestmark = pytest.mark.dist
SCRIPT = Path(__file__).with_name("train_ppo.py")


def run(start: list[str], models: Path, out: Path, batch_size: int, checkpoint: str = "") -> dict:
    """Start the script, wait for it, and return its facts with the weights that it saved."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where DeepSpeed's compiler finds ninja
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PATH": path}
    command = [sys.executable, *start, str(SCRIPT), str(models), str(out), str(batch_size), *checkpoint.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    facts = json.loads((out / "facts.json").read_text())
    facts["policy"] = AutoModelForCausalLM.from_pretrained(out / "final").state_dict()
    facts["critic"] = TokenScorer.from_pretrained(out / "final" / "critic").state_dict()
    return facts


def launcher(stage: int) -> list[str]:
    """The start of a command for two processes: DeepSpeed at this ZeRO stage, or plain DDP for stage 0. The library's
    `launch` ends them, with one setting that its engines do not have: gradients are not clipped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = ["--module", "densereward.training.launch", tempfile.mkdtemp()]
    if stage == 0:
        return ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), *ended]
    return [
        "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
        "--use_deepspeed", "--zero_stage", str(stage), "--zero3_init_flag", "false", "--zero3_save_16bit_model", "true",
        "--main_process_port", str(port), *ended,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """The same training in one process, without DeepSpeed."""
    return run([], models, tmp_path_factory.mktemp("alone"), 8)


def assert_equal(found: dict, expected: dict, tolerance: float) -> None:
    for part in ("policy", "critic"):
        for name, tensor in expected[part].items():
            torch.testing.assert_close(found[part][name], tensor, atol=tolerance, rtol=tolerance, msg=f"{part} {name}")


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_processes_train_policy_and_critic_as_one_process_does(models, alone, stage, tmp_path):
    """The same weights and curves as one process; policy and critic moved, saved, and resumed from a checkpoint, by one
    process too, or refused: DeepSpeed does not share out its states anew."""
    found = run(launcher(stage), models, tmp_path, 4)
    assert found["engine"] == ("DeepSpeedEngine" if stage else "DistributedDataParallel") and found["processes"] == 2
    assert len(found["losses"]) == 8 and all(map(math.isfinite, found["losses"]))
    for part, family in ("policy", AutoModelForCausalLM), ("critic", TokenScorer):
        before = family.from_pretrained(models / part).state_dict()
        assert all(not torch.equal(found[part][name], tensor) for name, tensor in before.items()), f"{part} stood still"
    assert_equal(found, alone, 1e-4)
    for row, expected in zip(found["curves"], alone["curves"], strict=True):
        for name in set(expected) - {"seconds_generate", "seconds_score", "seconds_update"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name

    again = run(launcher(stage), models, tmp_path, 4, str(tmp_path / "checkpoint-4"))
    assert_equal(again, found, 1e-6)
    assert len(again["curves"]) == len(found["curves"]) == 4
    if stage == 0:
        assert_equal(run([], models, tmp_path, 8, str(tmp_path / "checkpoint-4")), alone, 1e-4)
        return
    with pytest.raises(AssertionError, match="optimiser states in 2 shares.* there is 1 without DeepSpeed: go on with 2"):
        run([], models, tmp_path, 8, str(tmp_path / "checkpoint-4"))
