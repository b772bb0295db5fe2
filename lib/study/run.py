"""A run: a row of `methods.py` at a profile, a seed and a dataset, with its stages as attributes.

    run.sft -> run.preferences -> run.revisions -> run.scorer -> run.mask -> run.policy

Each is built when it is first asked for, and cached on disk by what determines it (`cache.py`), so that what a row
does not need is never touched, and what rows share is built once. How a stage is built stands in `stages/`. A
seed redraws everything after SFT; within a seed, rows share prompts and preference data.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from pydantic import Field

from densereward.checked import Columns, Count, DatasetName, ModelName, Seed, Share, Yes, checked
from densereward.reward.recipe import one_of
from densereward.text import data
from densereward.text.adapters import with_adapters
from densereward.text.tokens import tokenize_prompt
from study import cards, deciding, engines
from study.cache import Artifact, load_json, stage
from study.methods import LEARNED, METHODS, Method
from study.profiles import PROFILES, Profile, models_folder
from study.records import ROOT
from study.stages import policy, preferences, revisions, scorer, sft, watched
from testbed import build

transformers.logging.disable_progress_bar()  # a bar for each tiny model that is loaded says nothing
transformers.logging.set_verbosity_error()
disable_progress_bars()


@checked
class Run:
    """What a run is of: profile, dataset ("testbed" or a path), seed, a pretrained causal LM in place of the tiny one
    (or None), and the row. ValueError for a value of another type or out of range."""

    profile: Annotated[Profile, Field(description="one of profiles.py")]
    seed: Seed = 0
    dataset: DatasetName = "testbed"
    model: ModelName = None
    columns: Columns = ""  # of the dataset's files, where they are called otherwise than ours
    contrast: Share = 0.0  # testbed: share of contrast pairs among the preference pairs
    tuned: Yes = False  # whether the profile holds what tuning chose for this run's row
    root: Annotated[Path, Field(description="a path")] = ROOT / "runs"
    row: Annotated[Method, Field(description="a row of methods.py")] = METHODS["sft"]
    part: one_of("preference", "gold") = "preference"  # whose pairs train reward models; on text a judge's are gold
    # how it is run, which determines nothing of what is learnt but for rounding
    engine: Annotated[str, Field(description=engines.MEND)] = engines.ALONE
    processes: Count = 1
    hostfile: Annotated[str | None, Field(description="a DeepSpeed hostfile, or null")] = None
    report_to: one_of("none", "trackio", "wandb", "tensorboard") = "none"  # trackers of TRL's

    def __post_init__(self):
        if self.contrast and not self.testbed:
            raise ValueError(f"contrast is {self.contrast}, of {self.dataset}; only the testbed has contrast pairs")
        if self.columns and self.testbed:
            raise ValueError(f"columns is {self.columns!r:.60}, of the testbed; give them with a dataset of files")
        if self.part == "gold" and self.testbed:
            raise ValueError("part is 'gold', of the testbed; there another seed has other pairs")

    def of(self, row: Method | str) -> "Run":
        """The same run of another row; what both share is not looked up again."""
        other = replace(self, row=METHODS[row] if isinstance(row, str) else row)
        shared = ("content", "sft", "preferences", "heldout")
        vars(other).update({name: found for name, found in vars(self).items() if name in shared})
        return other

    @cached_property
    def sft(self) -> Path | str:
        """Folder (or hub name) of the SFT model: policy, reference, segmenter and trunk of every scorer."""
        return sft.sft_model(self)

    @cached_property
    def preferences(self) -> Artifact:
        """Tokenised preference pairs, by split."""
        return preferences.preferences(self)

    @cached_property
    def pairs(self) -> Artifact:
        """`preferences`, with the SFT model's entropies where the row's segments are cut by them."""
        return preferences.as_used(self)

    @cached_property
    def revisions(self) -> Artifact:
        """What the row's reviser made of the rejected answers."""
        return revisions.revisions(self)

    @cached_property
    def method(self) -> Method:
        """The row, with numbers for what its segmentation leaves to the data."""
        return scorer.resolve(self)

    @cached_property
    def scorer(self) -> Path | None:
        """Folder of the row's scorer; None for a row that learns none."""
        return scorer.scorer(self) if self.row.scorer in LEARNED else None

    @cached_property
    def metrics(self) -> dict:
        """What was measured of the scorer when it was trained; empty without one."""
        return load_json(self.scorer / "metrics.json") if self.scorer else {}

    @cached_property
    def mask(self) -> "Run | None":
        """The run whose rewards decide the row's mask; None for a row without one."""
        by = deciding.row_of(self.row)
        return self.of(by) if by else None

    @cached_property
    def heldout(self) -> Path | None:
        """Folder of the held-out proxy that curves record; None for a profile without one."""
        return watched.heldout_scorer(self)

    @cached_property
    def policy(self) -> Artifact | None:
        """The trained policy with its curves; None for a row that trains none."""
        return policy.policy(self)

    def stage(self, name: str, build: Callable[[Path], object], key: dict, sources: list, needs: list) -> Artifact:
        """`cache.stage` below the run's root. `needs` are artifacts and folders; a hub name, which `key` holds, and
        None are left out."""
        given = [x for x in needs if isinstance(x, Artifact) or (x is not None and Path(x).exists())]
        engines.build_if_asked(name, build)
        build = cards.with_cards(self, name, engines.spread(self, name, build))
        with torch.enable_grad():  # a measure that takes no gradients may be the first to ask
            return stage(name, build, key=key, sources=sources, inputs=given, root=self.root)

    def adapted(self, model: torch.nn.Module) -> torch.nn.Module:
        """A model about to be trained: as it is, or with adapters where the profile says so."""
        return with_adapters(model, self.profile.lora_rank) if self.profile.lora_rank else model

    @property
    def dtype(self) -> torch.dtype:
        """What pretrained weights are read as: the profile's on a GPU, float32 elsewhere."""
        return getattr(torch, self.profile.dtype) if torch.cuda.is_available() else torch.float32

    def further(self, stage: str) -> dict:
        """Fields of TRL's config for "sft", "scorer" or "policy", beside what the profile's other fields say."""
        tracked = {"report_to": [self.report_to], "logging_strategy": "steps", "logging_steps": 1}
        return self.profile.trl.get(stage, {}) | (tracked if self.report_to != "none" else {})

    def key(self, *fields: str, seeded: bool = True, trl: str | None = None, **extra) -> dict:
        """What determines a stage: the dataset and the named fields of the profile, so that other fields do not rebuild
        it; of what is trained its further fields of `trl` and its adapters. What is not `seeded`, the SFT model, does
        not depend on how pairs are labelled either."""
        world = self.profile.world
        answers = {"kinds": world.kinds, "parts": world.parts, "repeats": world.sft_repeats}
        source: Any = self.content
        extra |= {"trl": self.profile.trl[trl]} if trl in self.profile.trl else {}
        extra |= {"lora_rank": self.profile.lora_rank} if trl and self.profile.lora_rank else {}
        if self.testbed:
            source = asdict(world) | {"contrast": self.contrast} if seeded else answers
        source = {"content": source, "columns": self.renamed} if self.renamed else source
        return {
            "dataset": source,
            "model": self.model,
            "profile": {name: getattr(self.profile, name) for name in fields},
            "seed": self.seed if seeded else None,
            **extra,
        }

    @property
    def testbed(self) -> bool:
        return self.dataset == "testbed"

    @property
    def renamed(self) -> dict[str, str] | None:
        """What our columns are called in the dataset's files; None where that is nothing else."""
        return json.loads(self.columns) if self.columns else None

    @property
    def shares(self) -> dict[str, float] | None:
        """How the pairs of a file are split; None for the testbed, which draws as many as are asked for."""
        return None if self.testbed else data.SHARES

    @cached_property
    def content(self) -> str | None:
        """sha256 over the files of a dataset, as they were when this run was first asked; None for the testbed. It
        stands for the dataset wherever something is reused. ValueError where there is no file to read."""
        return None if self.testbed else content(self.dataset)

    @property
    def committed(self) -> Path | None:
        """The folder of committed models that this run starts from: only where they are what it would have trained,
        with the same world, pairs and score scale."""
        p = self.profile
        if not (p.committed_models and self.testbed and self.model is None and self.contrast == 0):
            return None
        theirs = PROFILES[p.committed_models]
        same = (p.world, p.rm_scale) == (theirs.world, theirs.rm_scale)
        folder = models_folder(theirs.name)
        return folder if same and folder.exists() else None

    def splits(self, seed: int | None = None, **sizes: int) -> dict[str, Dataset]:
        """The named splits, at most as many rows as asked for, of the run's seed or another; what was dropped is
        printed. ValueError for files that have changed since `content`."""
        return self.read(seed, **sizes)[0]

    def read(self, seed: int | None = None, **sizes: int) -> tuple[dict[str, Dataset], data.Report]:
        """`splits` and the report of what was dropped, which is printed."""
        known = self.content
        seed = self.seed if seed is None else seed
        if self.testbed:
            parts, report = build.load(self.profile.world, seed, self.contrast, **sizes)
        else:
            parts, report = data.load(self.dataset, seed, self.renamed, **sizes)
        if known and content(self.dataset) != known:
            raise ValueError(f"dataset '{self.dataset}' changed while this run was at work; start it again")
        print(f"data: {report}", flush=True)
        return parts, report

    def refuse_long_prompts(self, tokenizer) -> None:
        """`data.refuse_long_prompts` of the prompts for rollouts: asked before any work is done for them."""
        p = self.profile
        prompts = self.splits(ppo=p.rounds * p.rollouts)["ppo"]["prompt"]
        data.refuse_long_prompts((len(tokenize_prompt(tokenizer, x)) for x in prompts), p.max_prompt_length)


def content(dataset: str) -> str:
    """sha256 over the files that a dataset's path stands for, in the order in which they are read."""
    digest = hashlib.sha256()
    for path in data.files(dataset):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def reads_truth(row: Method) -> bool:
    """Whether a row needs the testbed: the oracle scores, revises, decides its mask, or made its teacher."""
    rows = [row, *(METHODS[name] for name in ((row.mask or {}).get("by"), row.advised_by) if name)]
    return any(r.scorer == "oracle" or (r.revisions or {}).get("kind") == "oracle" for r in rows)
