"""A stage on several processes: the caller's process keeps the cache, and those that it launches build.

    Run(..., engine="zero2", processes=2)      a file of `configs/`; "paper" takes what a backbone names for each stage

Every process finds the stages before in the cache, reaches the one that is asked for, trains it, and ends. What ON_ONE
lists trains on one process, and says so.
"""

import functools
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from densereward.training.launch import launch
from study.backbones import BACKBONES
from study.records import ROOT

ALONE, PAPER, CONFIGS = "alone", "paper", ROOT / "configs"
ENGINES = tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
MEND = f"{ALONE}, {PAPER}, or one of {', '.join(ENGINES)}"
STAGES = {"sft": "sft", "scorer": "scorer", "discriminator": "scorer"}  # stages that train: attributes of a run
_POLICIES = "ppo rloo grpo gtpo remax vine dense-grpo dense-rloo dpo kto figa".split()
STAGES |= dict.fromkeys(_POLICIES, "policy")
ON_ONE = ("online-dpo", "rs")  # rounds, made by one process
ASKED = "DENSEREWARD_STAGE"  # of a process that was launched: the stage, and the folder that it is built in


def engine_of(run, name: str) -> str:
    """The engine that a run's stage is trained with."""
    if run.engine != PAPER:
        return run.engine
    return BACKBONES[run.profile.name].engines[STAGES[name]] if run.profile.name in BACKBONES else ALONE


def check(run) -> None:
    """ValueError for an engine or a tracker that there is not, and for processes without an engine."""
    if run.engine not in (ALONE, PAPER, *ENGINES):
        raise ValueError(f"engine is {run.engine!r:.80}; give {MEND}")
    if run.report_to != "none" and find_spec(run.report_to) is None:
        raise ValueError(f"report_to is {run.report_to!r}, which is not installed; install it, or give none")
    if run.engine == PAPER and run.profile.name not in BACKBONES:
        raise ValueError(f"engine is 'paper', and profile {run.profile.name!r} is no paper's; give one of its own")
    if run.engine == ALONE and (run.processes > 1 or run.hostfile):
        raise ValueError(f"processes is {run.processes}, without an engine; give one of {', '.join(ENGINES)}")


def spread(run, name: str, build: Callable[[Path], object]) -> Callable[[Path], object]:
    """`build`, by the run's processes where the stage trains."""
    if run.engine == ALONE or (name not in STAGES and name not in ON_ONE):
        return build
    if name in ON_ONE:
        print(f"stage {name}: trains on one process, whatever the engine", flush=True)
        return build

    @functools.wraps(build)  # the cache knows a stage by the code that builds it
    def launched(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=run.root) as beside:
            spec = Path(beside, "run.pickle")
            spec.write_bytes(pickle.dumps((replace(run), name, str(folder))))
            command = ["-m", "study.engines", str(spec)]
            launch(command, CONFIGS / f"{engine_of(run, name)}.yaml", run.processes, run.hostfile)

    return launched


def build_if_asked(name: str, build: Callable[[Path], object]) -> None:
    """In a process that was launched for this stage: build it, and end."""
    wanted, _, folder = os.environ.get(ASKED, "").partition(":")
    if wanted == name:
        build(Path(folder))
        sys.exit(0)


if __name__ == "__main__":
    run, name, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
    os.environ[ASKED] = f"{name}:{folder}"
    getattr(replace(run, engine=ALONE, processes=1, hostfile=None), STAGES[name])
    raise RuntimeError(f"stage {name} was not reached")
