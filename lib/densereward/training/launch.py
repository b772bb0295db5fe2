"""One call that runs a script or a module on several processes, by `accelerate launch`.

An engine is a file of accelerate's (this project's are in `configs/`): DDP, DeepSpeed ZeRO-2 or ZeRO-3, with offload or
without. Which processes a script runs on is nothing that it need know: trainers read it from accelerate.

    launch(["train.py", "--seed", "0"], "configs/zero2.yaml", processes=2)

What the processes print is printed as it comes. Where one fails, the others are ended, and the error that came first
stands on top. Several nodes are those of a DeepSpeed hostfile ("name slots=8" a line): they need one file system, one
environment, ssh without a password and pdsh. Left out: schedulers (Slurm), elastic restarts.

Book: scale.md
"""

import atexit
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
import yaml


def launch(
    command: Sequence[str],
    engine: str | Path,
    processes: int = 1,
    hostfile: str | Path | None = None,
    say=lambda line: print(line, end="", flush=True),
) -> None:
    """Run `command` (a script, or "-m" and a module, with arguments) on so many processes in all; `say` gets each line
    that they print. ValueError for no such engine or hosts; RuntimeError, with the first error of a process."""
    with tempfile.TemporaryDirectory(dir=Path(hostfile).parent if hostfile else None) as errors:
        line = command_line(["-m", __name__, errors, *command], engine, processes, hostfile)
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]  # this library, installed or not
        given = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        given["PYTHONFAULTHANDLER"] = "1"  # a process that its runtime aborts says where
        given["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"  # DeepSpeed's compiler needs ninja
        child = subprocess.Popen(line, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            told = [(say(text), text)[1] for text in child.stdout]
        finally:
            if child.poll() is None and sys.exc_info()[0]:
                child.terminate()
            status = child.wait()
        if status:
            first = min(Path(errors).iterdir(), key=lambda file: file.stat().st_mtime_ns, default=None)
            said = first.read_text() if first else "".join(told[-80:])  # accelerate's own account has up to 40 lines
            what = f"{first.name}: {said.splitlines()[-1]}" if first else "with no error of Python's; it said at last:"
            raise RuntimeError(f"{' '.join(command)} failed (exit {status}), {what}\n{said}")


def command_line(command: Sequence[str], engine: str | Path, processes: int, hostfile: str | Path | None) -> list[str]:
    """The `accelerate launch` that `launch` starts."""
    engine = Path(engine)
    if not engine.is_file():
        raise ValueError(f"engine {engine} is no file; give one of accelerate's configs")
    try:
        deepspeed = yaml.safe_load(engine.read_text())["distributed_type"] == "DEEPSPEED"
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError, KeyError) as problem:
        why = f"{' '.join(str(problem).split()):.150}"
        raise ValueError(f"engine {engine} cannot be read ({why}); give one of accelerate's configs") from None
    hosts = hosts_of(hostfile) if hostfile else {}
    if hosts and not deepspeed:
        raise ValueError(f"engine {engine.name} is not DeepSpeed's, which reads hostfiles; give one of those")
    if hosts and sum(hosts.values()) != processes:
        raise ValueError(f"{hostfile} has {sum(hosts.values())} slots for {processes} processes; give as many")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(engine)]
    line += ["--num_processes", str(processes), "--num_machines", str(len(hosts) or 1)]
    line += ["--main_process_port", str(port)]
    if len(hosts) > 1:
        line += ["--deepspeed_hostfile", str(hostfile), "--deepspeed_multinode_launcher", "pdsh"]
        line += ["--main_process_ip", next(iter(hosts))]
    module = command[0] == "-m"
    return [*line, *(["--module"] if module else []), *command[module:]]


def hosts_of(hostfile: str | Path) -> dict[str, int]:
    """{host: slots} of a DeepSpeed hostfile. ValueError, naming the line, for what is none."""
    hosts, lines = {}, Path(hostfile).read_text(errors="replace").splitlines()
    for line in filter(None, (text.split("#")[0].strip() for text in lines)):
        found = re.fullmatch(r"(\S+)\s+slots=(\d+)", line)
        if not found:
            raise ValueError(f"{hostfile}: {line!r}; write 'name slots=8'")
        hosts[found[1]] = int(found[2])
    return hosts


def _process(errors: str, *command: str) -> None:
    """What each process is: the command, with its error kept for the caller."""
    module, sys.argv = command[0] == "-m", [*command[command[0] == "-m" :]]
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(sys.argv[0]).parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    except Exception:
        Path(errors, f"process {os.environ.get('RANK', '0')}").write_text(traceback.format_exc())
        raise
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        # Who still refers to the group keeps gloo's threads. One that is late to drop the tensors of its last call
        # aborts a process whose interpreter has begun to end, so that does not begin.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    _process(*sys.argv[1:])
