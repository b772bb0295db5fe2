"""The stages of a run, each cached under `runs/` by what determines it: SFT, preferences with entropies, scorer,
normaliser, PPO.

    sft ----> preferences ----> reward model ----> normaliser ----> ppo ----> evaluation (study.py)
      \\______________________________________________________________/

A seed redraws everything after SFT; within a seed, methods share prompts and preference data. Nothing here knows which
dataset it serves: what only the testbed can tell (true returns, credit) is measured in `testbed/truth.py` and handed in
as numbers to record.
"""

import hashlib
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_from_disk
from pydantic import Field

from densereward import data, dense, logprobs, models, offsets, sampling, segments, tokens
from densereward.checked import DatasetName, ModelName, Seed, Share, Yes, checked
from densereward.methods import METHODS, Method
from densereward.models import TokenScorer, load_causal_lm, scorer_from
from densereward.profiles import PROFILES, Profile, models_folder
from densereward.seeding import derive, generator, seed_everything
from densereward.stages import Artifact, load_json, save_json, stage
from densereward.testbed import build, oracle, truth, world
from densereward.training import reward_model, settings, sft

transformers.logging.disable_progress_bar()  # a bar for each tiny model that is loaded says nothing
transformers.logging.set_verbosity_error()
disable_progress_bars()

ROOT = Path(__file__).resolve().parents[2]
DATA = [data, tokens, world, build, oracle]  # code that makes the data
SCORING = [models, segments, offsets, dense, logprobs, sampling, settings]


@checked
class Run:
    """What a run is of: profile, dataset ("testbed" or a path), seed, and a pretrained causal LM in place of the tiny
    one (or None). ValueError for a value of another type or out of range."""

    profile: Annotated[Profile, Field(description="one of profiles.py")]
    seed: Seed = 0
    dataset: DatasetName = "testbed"
    model: ModelName = None
    contrast: Share = 0.0  # testbed: share of contrast pairs among the preference pairs
    tuned: Yes = False  # whether the profile holds what tuning chose for this run's method
    root: Annotated[Path, Field(description="a path")] = ROOT / "runs"

    def __post_init__(self):
        if self.contrast and not self.testbed:
            raise ValueError(f"contrast is {self.contrast}, of {self.dataset}; only the testbed has contrast pairs")

    @property
    def testbed(self) -> bool:
        return self.dataset == "testbed"

    @cached_property
    def content(self) -> str | None:
        """sha256 over the files of a dataset, as they were when this run was first asked; None for the testbed. It
        stands for the dataset wherever something is reused. ValueError where there is no file to read."""
        return None if self.testbed else content(self.dataset)

    def key(self, *fields: str, seeded: bool = True, **extra) -> dict:
        """What determines a stage: the dataset and the named fields of the profile, so that other fields do not rebuild
        it. What is not `seeded`, the SFT model, does not depend on how pairs are labelled either."""
        profile = {name: getattr(self.profile, name) for name in fields}
        world = self.profile.world
        answers = {"kinds": world.kinds, "parts": world.parts, "repeats": world.sft_repeats}
        source = (asdict(world) | {"contrast": self.contrast} if seeded else answers) if self.testbed else self.content
        return {
            "dataset": source,
            "model": self.model,
            "profile": profile,
            "seed": self.seed if seeded else None,
            **extra,
        }

    @property
    def committed(self) -> Path | None:
        """The folder of committed models that this run starts from, if it does."""
        return models_folder(self.profile.committed_models) if self._uses_committed else None

    @property
    def _uses_committed(self) -> bool:
        """Only where the committed models are what this run would have trained: same world, pairs and score scale."""
        if not (self.profile.committed_models and self.testbed and self.model is None and self.contrast == 0):
            return False
        theirs = PROFILES[self.profile.committed_models]
        same = (self.profile.world, self.profile.rm_scale) == (theirs.world, theirs.rm_scale)
        return same and models_folder(theirs.name).exists()

    def splits(self, seed: int | None = None, **sizes: int) -> dict[str, Dataset]:
        """The named splits, at most as many rows as asked for, of the run's seed or another; what was dropped is
        printed. ValueError for files that have changed since `content`."""
        known = self.content
        parts, report = data.load(
            self.dataset, self.seed if seed is None else seed, self.profile.world, self.contrast, **sizes
        )
        if known and content(self.dataset) != known:
            raise ValueError(f"dataset '{self.dataset}' changed while this run was at work; start it again")
        print(f"data: {report}", flush=True)
        return parts


def content(dataset: str) -> str:
    """sha256 over the files that a dataset's path stands for, in the order in which they are read."""
    digest = hashlib.sha256()
    for path in data.files(dataset):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def reads_truth(method: Method) -> bool:
    """Whether a row needs the testbed: the oracle scores, revises, or decides its mask."""
    by = METHODS[method.mask["by"]] if method.mask else method
    return any(row.scorer == "oracle" or (row.revisions or {}).get("kind") == "oracle" for row in (method, by))


def sft_model(run: Run) -> Path:
    """The folder (or hub name) of the SFT model: policy, reference, segmenter and trunk of every scorer. Shared by all
    seeds."""
    if run.model is not None:
        return Path(run.model) if Path(run.model).exists() else run.model
    if run.committed:
        return run.committed / "sft"
    p = run.profile
    fields = (
        "vocab_size",
        "width",
        "layers",
        "max_prompt_length",
        "max_completion_length",
        "sft_rows",
        "sft_epochs",
        "sft_batch",
        "sft_learning_rate",
    )

    def build_sft(folder: Path) -> None:
        rows = run.splits(seed=0, sft=p.sft_rows)["sft"]
        texts = [
            m["content"] for row in rows.select(range(min(len(rows), 8_000))) for m in row["prompt"] + row["completion"]
        ]
        tokenizer = models.build_tokenizer(texts, p.vocab_size)
        rows, report = tokens.tokenize_sft(rows, tokenizer, p.max_prompt_length, p.max_completion_length)
        seed_everything(0)
        model = models.tiny_llama(
            tokenizer, p.width, p.layers, max_length=p.max_prompt_length + p.max_completion_length
        )
        curve = sft.train_sft(model, tokenizer, rows, p, folder)
        save_json(folder / "curve.json", {"loss": curve, "report": str(report)})

    return stage(
        "sft",
        build_sft,
        key=run.key(*fields, seeded=False),
        sources=[*DATA, models, sft, settings],
        inputs=[],
        root=run.root,
    ).path


def preferences(run: Run, folder_of_sft: Path) -> Artifact:
    """Tokenised pairs (splits preference, validation, test) with the SFT model's entropies of both responses: computed
    once here, so that every cut-off is a comparison (segment-ppo Section 2.2: a one-time preprocessing)."""
    p = run.profile

    def build_preferences(folder: Path) -> None:
        model, tokenizer = load_causal_lm(folder_of_sft)
        model = to_device(model).eval()
        sizes = {"preference": p.pairs, "validation": p.heldout_pairs, "test": p.heldout_pairs}
        reports = {}
        for name, rows in run.splits(**sizes).items():
            rows, report = tokens.tokenize_pairs(rows, tokenizer, p.max_prompt_length, p.max_completion_length)
            reports[name] = asdict(report)
            with_entropies(model, tokenizer, rows).save_to_disk(folder / name)
        save_json(folder / "report.json", reports)

    fields = ("max_prompt_length", "max_completion_length", "pairs", "heldout_pairs")
    return stage(
        "preferences",
        build_preferences,
        key=run.key(*fields),
        sources=[*DATA, logprobs, sampling],
        inputs=inputs_of(folder_of_sft),
        root=run.root,
    )


def with_entropies(model, tokenizer, pairs: Dataset, batch_size: int = 32) -> Dataset:
    """Pairs plus `chosen_entropies`, `rejected_entropies`: nats, one per completion token, in float32."""
    columns = pairs[:]  # lists at once: rows of a Dataset cost more than the model's pass
    prompts, n = columns["prompt_ids"] * 2, len(pairs)
    completions = [ids for side in reward_model.SIDES for ids in columns[f"{side}_completion_ids"]]
    order = sorted(range(2 * n), key=lambda i: (len(completions[i]), len(prompts[i])))  # hardly any padding
    entropies: list = [None] * (2 * n)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = sampling.batch_of(model, tokenizer, [prompts[i] for i in rows], [completions[i] for i in rows])
        for i, row in zip(rows, batch["ref_entropies"].cpu().numpy(), strict=True):
            entropies[i] = row[: len(completions[i])]
    sides = {"chosen_entropies": entropies[:n], "rejected_entropies": entropies[n:]}
    return concatenate_datasets([pairs, Dataset.from_dict(sides)], axis=1)


def scorer(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> tuple[Path, dict]:
    """(folder of the token scorer, its metrics): label accuracy on held-out pairs; on the testbed also truth, gate and
    flip rate."""
    method = replace(method, segmentation=method.trained_on, trained_with=None)
    if folder_of_committed := committed_scorer(run, method):
        return folder_of_committed, load_json(folder_of_committed / "metrics.json")
    p = run.profile
    fields = ("pairs", "rm_batch", "rm_learning_rate", "rm_scale")
    extra = {"segmentation": method.segmentation, "aggregate": method.aggregate}
    scale = p.rm_scale if method.aggregate == "mean" else 1.0  # a sum is on a larger scale as it is

    def build_scorer(folder: Path) -> None:
        model, tokenizer = load_causal_lm(folder_of_sft)
        sets = {
            name: reward_model.with_segments(load_from_disk(prefs.path / name), method, tokenizer, run.seed)
            for name in ("preference", "validation", "test")
        }
        seed_everything(derive(run.seed, "scorer"))
        net = to_device(scorer_from(model, aggregate=method.aggregate, scale=scale))
        curve = reward_model.train_reward_model(
            net, tokenizer, sets["preference"], sets["validation"], p, folder, derive(run.seed, "scorer") % 2**31
        )
        metrics = {"curve": curve, "pairs": len(sets["preference"]), "segment_length": segment_length(sets["test"])}
        for name in ("validation", "test"):
            margin = reward_model.margins(net, sets[name], tokenizer.pad_token_id)
            metrics[f"accuracy_{name}"] = float(np.mean((np.sign(margin) + 1) / 2))
            metrics[f"accuracy_{name}_se"] = float(np.std(margin > 0) / len(margin) ** 0.5)
            if run.testbed:
                metrics |= truth.scorer_metrics(name, net, method, model, tokenizer, sets, margin, run)
        save_json(folder / "metrics.json", metrics)

    artifact = stage(
        "scorer",
        build_scorer,
        key=run.key(*fields, **extra),
        sources=[*DATA, *SCORING, reward_model, truth, *own_code(method)],
        inputs=[*inputs_of(folder_of_sft), prefs],
        root=run.root,
    )
    return artifact.path, load_json(artifact.path / "metrics.json")


def committed_scorer(run: Run, method: Method) -> Path | None:
    """The folder of the committed scorer that was trained as this method's is, if this run may use it."""
    for folder in sorted(run.committed.glob("*/metrics.json")) if run.committed else ():
        theirs = METHODS[folder.parent.name]
        trained = (theirs.scorer, theirs.revisions, theirs.trained_on, theirs.aggregate)
        if trained == (method.scorer, method.revisions, method.segmentation, method.aggregate):
            return folder.parent
    return None


def resolve(run: Run, method: Method, folder_of_sft: Path, prefs: Artifact) -> Method:
    """The method with what its segmentation leaves to the data resolved on the preference pairs
    (`reward_model.resolve`)."""
    if not {"matched"} & set(map(str, method.segmentation.values())) and "length" not in method.segmentation:
        return method
    tokenizer = load_causal_lm(folder_of_sft)[1]
    return reward_model.resolve(method, load_from_disk(prefs.path / "preference"), tokenizer, METHODS["segment"])


def segment_length(rows: Dataset) -> float:
    """Mean number of tokens per segment of the responses of `with_segments` rows."""
    ids = [row for side in reward_model.SIDES for row in rows[f"{side}_segment_ids"]]
    return sum(map(len, ids)) / sum(max(row) + 1 for row in ids)


def calibration_scores(
    run: Run, method: Method, folder_of_scorer: Path, folder_of_sft: Path, prefs: Artifact, n: int = 2_000
):
    """Segment scores and segment lengths (tokens, 0 beyond the last), both [2n, S], of both answers of the first n
    preference pairs, on the CPU: as the row's policy is paid for them but not yet normalised, what normalisers are
    fitted on (segment-ppo Appendix F). Random: a random segmentation (seed)."""
    net = to_device(TokenScorer.from_pretrained(folder_of_scorer, dtype=torch.float32)).eval()
    tokenizer = load_causal_lm(folder_of_sft)[1]
    rows = load_from_disk(prefs.path / "preference")
    return scores_of(method, net, rows.select(range(min(n, len(rows)))), tokenizer, run.seed)


@torch.no_grad()
def scores_of(method: Method, net: TokenScorer, pairs: Dataset, tokenizer, seed: int, batch_size: int = 128):
    """`calibration_scores` of given pairs and scorer."""
    draw, found = generator(seed, "segments", method.name), []
    for start in range(0, len(pairs), batch_size):
        rows = pairs.select(range(start, min(start + batch_size, len(pairs)))).to_list()
        for side in reward_model.SIDES:
            batch = {name: x.to(net.device) for name, x in reward_model.answers(rows, side, tokenizer).items()}
            ids = dense.segment_ids(method, batch, tokenizer, draw)
            scores, _ = dense.segment_scores(method, net, batch, ids, None, tokenizer, draw)
            found.append((scores.cpu(), segments.segment_lengths(ids).cpu()))
    width = max(scores.size(1) for scores, _ in found)
    scores, lengths = (
        torch.cat([torch.nn.functional.pad(x, (0, width - x.size(1))) for x in part])
        for part in zip(*found, strict=True)
    )
    return scores, lengths


def own_code(method: Method) -> list:
    """The boundary function of a method whose segmentation is none of `segments.py`'s: an edit of it rebuilds what
    rests on it."""
    function = segments.BOUNDARIES.get(method.segmentation["kind"])
    return [] if function is None or function.__module__ == segments.__name__ else [function]


def known(numbers: dict) -> dict:
    """The numbers with None in place of nan (the fact accuracy of answers without a fact, say), as records need it."""
    return {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in numbers.items()}


def to_device(model):
    return model.to("cuda") if torch.cuda.is_available() else model


def inputs_of(folder: Path | str) -> list:
    """A local model is hashed by its bytes; a hub name is in the key already."""
    return [folder] if Path(folder).exists() else []
