"""Sizes and hyperparameters, one row per profile. Every stage takes its settings from here, so a record's `profile`
says them all.

`smoke` checks that everything runs, in minutes on two cores, and is no evidence of anything. `cpu` is the comparison at
its full length on two cores. `small` is the same with about half of the answers and a fifth of the pairs, so that more
seeds are affordable; `brief`, with a quarter of the answers, so that every row of `methods.py` is. `gpu` has a wider
model, more pairs and more seeds. `smollm2` is for the pretrained model of `pretrained.py`.

Where a value is a paper's, the comment says so; the others were set by a few single runs, alike for every method, but
for those that `tuning.py` chose by equal trials. The papers' backbones are in `backbones.py`.
"""

from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from densereward.checked import Count, NotNegative, Positive, Share, Text, Whole, Yes, checked
from study.backbones import BACKBONES
from testbed.world import World

Width = Annotated[int, Field(ge=16, multiple_of=16, description="a multiple of 16: eight heads of an even width")]
Other = Annotated[Text | None, Field(description="the name of another profile, or null")]


@checked
class Profile:
    """One profile. Lengths are in tokens, learning rates per optimiser step, rounds are rollout batches. ValueError for
    a value out of range, rollouts that minibatches do not divide, and more rounds of warm-up than rounds."""

    name: Text
    world: Annotated[World, Field(description='an object of its fields, such as {"kinds": 4}')]
    vocab_size: Count = 768  # each word of the testbed is one token
    width: Width = 128
    layers: Count = 2
    max_prompt_length: Count = 64
    max_completion_length: Count = 128
    # supervised fine-tuning
    sft_rows: Count = 16_000
    sft_epochs: Positive = 4.0
    sft_batch: Count = 32
    sft_learning_rate: Positive = 2e-3
    # reward models (segment-ppo Table 8: one epoch; Adam betas .9, .95; gradient clipping 1)
    pairs: Count = 28_000
    heldout_pairs: Count = 2_000
    rm_batch: Count = 16
    rm_learning_rate: Positive = 1e-3  # this and the next: by equal trials, see tuning.py
    rm_scale: Positive = 16.0  # of the mean over segments (our addition; Eq. 4 has none)
    # PPO (segment-ppo Appendix D: clipping .2; one response per prompt at temperature 1; gamma 1)
    rounds: Count = 64
    rollouts: Count = 64
    minibatches: Count = 2
    micro_batch: Count = 8  # responses of like length per pass; speed and memory only, the update is the same
    ppo_epochs: Count = 2
    actor_learning_rate: Positive = 5e-4
    critic_learning_rate: Positive = 3e-3
    kl_coef: NotNegative = 0.1
    lam: Share = 1.0  # of GAE; no paper gives it
    critic_warmup: Whole = 8  # rounds in which only the critic learns
    # DPO on the same pairs, one epoch; FIGA on their revisions, at the same learning rate
    dpo_beta: Positive = 0.1
    dpo_learning_rate: Positive = 3e-4
    # DPO and rejection sampling in rounds; at 3e-4, or at 1e-4 with a beta of .1, the former drifts tens of nats off
    online_learning_rate: Positive = 1e-4
    online_dpo_beta: Positive = 0.5
    # evaluation
    heldout_proxy: Yes = False  # whether curves record the score of the next seed's reward model (`watched.py`)
    eval_prompts: Count = 256
    credit_responses: Count = 96
    credit_samples: Count = 16  # continuations per prefix of the Monte Carlo advantage
    committed_models: Other = None  # the profile whose committed SFT and reward models PPO starts from
    # pretrained models
    dtype: Annotated[Literal["float32", "bfloat16"], Field(description="float32 or bfloat16")] = "float32"  # on a GPU
    lora_rank: Whole = 0  # of adapters on every linear layer of what is trained; 0: all weights are
    chat_template: str | None = None  # of a model without one that is fine-tuned; None: the model's own
    trl: Annotated[dict[str, dict], Field(description="fields of TRL's configs by stage: sft, scorer, policy")] = field(
        default_factory=dict
    )

    def __post_init__(self):
        if unknown := self.trl.keys() - {"sft", "scorer", "policy"}:
            raise ValueError(f"trl has {min(unknown)!r:.40}; give fields of TRL's configs for sft, scorer, policy")
        if self.rollouts % self.minibatches:
            raise ValueError(f"minibatches is {self.minibatches}, of {self.rollouts} rollouts; give a divisor of them")
        if self.critic_warmup > self.rounds:
            raise ValueError(
                f"critic_warmup is {self.critic_warmup}, of {self.rounds} rounds; give at most {self.rounds}"
            )

    def to_dict(self) -> dict:
        return asdict(self)


_CPU = Profile("cpu", World(kinds=3, sft_repeats=0.15), heldout_proxy=True)
BRIEF = {  # 1,024 answers a run; runs of the map of density are of this size too
    "rounds": 32,
    "rollouts": 32,
    "critic_warmup": 4,
    "heldout_proxy": False,
    "eval_prompts": 128,
    "heldout_pairs": 500,
    "credit_responses": 8,
    "credit_samples": 4,
}

PROFILES = {
    "smoke": replace(
        _CPU,
        name="smoke",
        sft_rows=512,
        sft_epochs=1.0,
        pairs=256,
        heldout_pairs=128,
        rounds=3,
        rollouts=16,
        critic_warmup=1,
        heldout_proxy=False,
        eval_prompts=32,
        credit_responses=8,
        credit_samples=4,
        committed_models="cpu",
    ),
    "brief": replace(_CPU, name="brief", pairs=4_000, **BRIEF | {"credit_responses": 32}),
    "small": replace(
        _CPU,
        name="small",
        pairs=6_000,
        heldout_pairs=1_000,
        rounds=48,
        rollouts=48,
        critic_warmup=6,
        credit_responses=32,
        credit_samples=8,
    ),
    "cpu": _CPU,
    "gpu": replace(
        _CPU,
        name="gpu",
        world=World(kinds=6, sft_repeats=0.15),
        width=256,
        layers=4,
        sft_rows=60_000,
        sft_batch=256,  # this and the next two for speed, not tuned
        pairs=50_000,
        heldout_pairs=2_000,
        rm_batch=64,
        rollouts=256,
        micro_batch=128,
        rounds=60,
        eval_prompts=512,
        credit_responses=256,
        credit_samples=32,
    ),
    "smollm2": replace(  # with -p model runs/models/smollm2: 135M weights on two cores, a proof and no comparison
        _CPU,
        name="smollm2",
        pairs=600,
        heldout_pairs=240,
        rm_batch=8,
        rounds=10,
        rollouts=8,
        minibatches=1,
        micro_batch=4,
        ppo_epochs=1,
        actor_learning_rate=1e-6,
        critic_learning_rate=1e-5,
        critic_warmup=1,
        heldout_proxy=False,
        eval_prompts=32,
        credit_responses=8,
        credit_samples=4,
    ),
    **{
        name: replace(_CPU, name=name, heldout_proxy=False, chat_template=b.chat_template or None, **b.fields)
        for name, b in BACKBONES.items()
    },
}


# Real text has more words and longer answers than the testbed; there is no committed model and no oracle for it.
TEXT = {
    "smoke": {"vocab_size": 1024, "max_prompt_length": 128, "max_completion_length": 64, "width": 64},
    **dict.fromkeys(
        ("small", "cpu"),
        {"vocab_size": 4096, "max_prompt_length": 160, "max_completion_length": 96}
        | {"rounds": 12, "rollouts": 32, "critic_warmup": 4},  # the testbed's warm-up would be half of all rounds
    ),
    "gpu": {"vocab_size": 8192, "max_prompt_length": 512, "max_completion_length": 256, "rounds": 40, "rollouts": 128},
    "smollm2": {"max_prompt_length": 128, "max_completion_length": 96, "rm_learning_rate": 1e-4, "rm_scale": 1.0},
}


def profile(name: str, dataset: str = "testbed", /, **changes) -> Profile:
    """The profile called `name`, as it is for `dataset` ("testbed" or a path), with fields replaced; a
    `world` given as a dict changes fields of the profile's. Raises ValueError for an unknown profile or field, and for
    a value that a field cannot have."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r:.80}; choose one of {', '.join(PROFILES)}")
    unknown = [field for field in changes if field == "name" or field not in Profile.__dataclass_fields__]
    if unknown:
        raise ValueError(f"profile {name!r} has no field {unknown[0]!r} to change; see profiles.py for those it has")
    if isinstance(changes.get("world"), dict):
        changes["world"] = replace(PROFILES[name].world, **changes["world"])
    if changes.get("committed_models") not in (None, *PROFILES):
        known = ", ".join(PROFILES)
        raise ValueError(f"committed_models is {changes['committed_models']!r:.80}; give null or one of {known}")
    return replace(PROFILES[name], **(({} if dataset == "testbed" else TEXT.get(name, {})) | changes))


def models_folder(name: str) -> Path:
    """Where the committed models of a profile lie."""
    return Path(__file__).resolve().parents[2] / "data" / "models" / name
