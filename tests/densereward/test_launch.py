"""What would break: processes whose output is not seen, whose error is lost, or that were never right to start."""

import pytest

from densereward.training.launch import command_line, hosts_of, launch
from densereward.training.settings import batches
from report.notebooks import ROOT

DDP, ZERO2 = (ROOT / "configs" / f"{name}.yaml" for name in ("ddp", "zero2"))
SCRIPT = """
import os, pathlib, sys, time
rank = os.environ["RANK"]
print(f"process {rank} of {os.environ['WORLD_SIZE']} was told {' '.join(sys.argv[1:])}\\n", end="", flush=True)
other_is_heard = pathlib.Path(__file__).with_suffix(".heard")
if rank == "0":
    other_is_heard.touch()
    time.sleep(60)
while not other_is_heard.exists():
    time.sleep(0.1)
raise LookupError("no such thing")
"""


def test_the_error_that_came_first_is_on_top_and_the_other_process_is_ended(tmp_path):
    script, told = tmp_path / "train.py", []
    script.write_text(SCRIPT)
    with pytest.raises(RuntimeError) as failed:
        launch([str(script), "--seed", "3"], DDP, 2, say=told.append)
    first = str(failed.value).splitlines()[0]
    assert first.endswith("process 1: LookupError: no such thing") and str(script) in first
    assert {line.strip() for line in told} >= {f"process {i} of 2 was told --seed 3" for i in "01"}


GROUP = """
import atexit, sys
import torch.distributed as dist
atexit.register(lambda: print("held\\n" if dist.is_initialized() else "left\\n", end="", flush=True))
dist.init_process_group("gloo")
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)"])
def test_processes_leave_their_group_before_they_end_whichever_way_they_do(end, tmp_path):
    """Threads of a group that is still held abort its process now and then."""
    script, told = tmp_path / "train.py", []
    script.write_text(GROUP + end)
    launch([str(script)], DDP, 2, say=told.append)
    assert sum("left" in line for line in told) == 2 and not any("held" in line for line in told)


def test_a_process_that_its_runtime_aborts_or_that_exits_with_a_code_is_no_success(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import os\nos.abort()\n")
    with pytest.raises(RuntimeError, match=r"(?s)no error of Python's.*Fatal Python error: Aborted.*train\.py"):
        launch([str(script)], DDP, 2, say=lambda line: None)
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(RuntimeError, match="failed"):
        launch([str(script)], DDP, 2, say=lambda line: None)


def test_several_nodes_are_those_of_the_hostfile(tmp_path):
    hosts = tmp_path / "hostfile"
    hosts.write_text("# two nodes\none slots=8\n\ntwo slots=8  # the other\n")
    assert hosts_of(hosts) == {"one": 8, "two": 8}
    line = " ".join(command_line(["-m", "study.engines"], ZERO2, 16, hosts))
    assert "--num_processes 16 --num_machines 2" in line and "--main_process_ip one" in line
    assert f"--deepspeed_hostfile {hosts} --deepspeed_multinode_launcher pdsh --module study.engines" in line.replace(
        " --main_process_ip one", ""
    )
    with pytest.raises(ValueError, match="16 slots for 2 processes"):
        command_line(["train.py"], ZERO2, 2, hosts)
    with pytest.raises(ValueError, match="not DeepSpeed's"):
        command_line(["train.py"], DDP, 16, hosts)
    hosts.write_text("one 8\n")
    with pytest.raises(ValueError, match="write 'name slots=8'"):
        hosts_of(hosts)
    with pytest.raises(ValueError, match="is no file"):
        command_line(["train.py"], tmp_path / "zero9.yaml", 2, None)


def test_an_update_is_shared_out_or_refused(monkeypatch):
    assert batches(16, 8) == {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert batches(128, 8) == {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    with pytest.raises(ValueError, match="18 rows does not split over 4 processes"):
        batches(18)
