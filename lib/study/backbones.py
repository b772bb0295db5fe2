"""The papers' backbones as profiles: models, data, every hyperparameter, each with its source. No code.

"T8", "T9" and "D" are segment-ppo's Tables 8 and 9 and Appendix D; "script" is its released `train_ppo_segment.sh` and
`train_seg_rm.sh` with the defaults behind them (DenseRewardRLHF-PPO at 6cb62e6), where the paper is silent. "B" is
tlcr's, or adaptive-mask's, Appendix B. "ours" is said where neither paper nor code says it.

`fields` are those of a profile. `trl` in it holds further fields of TRL's configs per stage ("sft", "scorer",
"policy"). `config` is the architecture at full size, as transformers names its fields (from the models' config.json),
from which memory is estimated without the weights, and what a dry run makes narrow.
"""

from dataclasses import dataclass

_SEGMENT_PPO_SCHEDULE = {
    "lr_scheduler_type": "cosine_with_min_lr",  # script; the paper: OpenRLHF's defaults
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},  # script
    "warmup_steps": 0.03,  # script: a share of all updates
    "gradient_checkpointing": True,  # D
}
_SEGMENT_PPO = {
    "dtype": "bfloat16",  # script
    "max_prompt_length": 1024,  # T9; T8 says 1728 for reward models, D 1792
    "max_completion_length": 1024,  # T9; T8: prompt and response 2048 in all
    "pairs": 700_000,  # at most: all of the file's share
    "rm_batch": 128,  # T8
    "rm_learning_rate": 1e-6,  # T8
    "rm_scale": 1.0,  # Eq. 4 has no factor
    "rollouts": 1024,  # T9
    "minibatches": 8,  # T9: updates of 128
    "ppo_epochs": 1,  # script: T9's epochs are passes over the prompts
    "actor_learning_rate": 5e-7,  # T9
    "critic_learning_rate": 9e-6,  # T9
    "kl_coef": 0.01,  # T9
    "lam": 0.95,  # script
    "critic_warmup": 0,  # neither has one
    "dpo_learning_rate": 5e-7,  # ours: the paper does not say how its DPO was trained (Table 3)
}
_PASS = 60_917 // 1024  # rollout batches in a pass over UltraFeedback (rows of the set that the script names)
_SEGMENT_PPO_DATA = {
    "pairs": "hendrydong/preference_700K",  # Section 4.1
    "prompts": "argilla/ultrafeedback-binarized-preferences-cleaned",  # script; the paper: UltraFeedback
}
_TO_SCORER, _TO_PPO = {"scorer": "zero3", "policy": "zero2-offload"}, "8 GPUs of one node (script)"


def _segment_ppo(scorer: int, policy: int, passes: int) -> dict:
    """Fields, with what differs by model: rows a pass and passes over the prompts (`scorer` and `policy`: script)."""
    stages = dict.fromkeys(("scorer", "policy"), _SEGMENT_PPO_SCHEDULE)
    stages["scorer"] = stages["scorer"] | {"per_device_train_batch_size": scorer}
    return _SEGMENT_PPO | {"trl": stages, "micro_batch": policy, "rounds": passes * _PASS}


_COSINE = {"lr_scheduler_type": "cosine", "warmup_steps": 0, "gradient_checkpointing": True}  # B
_TLCR = {
    "dtype": "bfloat16",  # ours; DeepSpeed-Chat has fp16
    "max_prompt_length": 256,  # B: 512 in all; how it is split is ours
    "max_completion_length": 256,
    "sft_rows": 112_052,  # at most: all of the file's share (Section 5: 20%)
    "sft_epochs": 2.0,  # B
    "sft_batch": 128,  # B: 16 a device, on 8 (Section 5)
    "sft_learning_rate": 1e-5,  # B
    "pairs": 112_052,  # at most: all of the file's share (Section 5: 40%)
    "rm_batch": 64,  # B: 16 a device, on 8: answers, two a pair
    "rm_learning_rate": 1e-5,  # B
    "rm_scale": 1.0,
    "rollouts": 128,  # ours: 16 a device, as the other stages; the paper does not say
    "minibatches": 1,  # ours
    "micro_batch": 16,  # ours
    "ppo_epochs": 1,  # ours
    "rounds": int(0.4 * 112_052) // 128,  # B: one epoch; Section 5: 40% of full-hh-rlhf
    "actor_learning_rate": 1e-6,  # B
    "critic_learning_rate": 1e-6,  # B has one rate
    "kl_coef": 0.1,  # B
    "lam": 0.95,  # ours (DeepSpeed-Chat's); the paper does not say
    "critic_warmup": 0,
    "trl": {
        "sft": _COSINE,
        "scorer": _COSINE | {"num_train_epochs": 2, "weight_decay": 0.1},  # B
        "policy": _COSINE,
    },
}
_QWEN = {  # B gives the sampling (`rounds.SAMPLING`, 8 answers a prompt) and a length, nothing else
    "dtype": "bfloat16",  # ours, as all that follows but the length
    "max_prompt_length": 2048,  # B: 4096 in all; how it is split is ours
    "max_completion_length": 2048,
    "pairs": 700_000,  # at most
    "rm_batch": 128,
    "rm_learning_rate": 1e-6,
    "rm_scale": 1.0,
    "rollouts": 1024,
    "minibatches": 8,
    "micro_batch": 2,
    "rounds": 60,
    "ppo_epochs": 1,
    "actor_learning_rate": 5e-7,
    "critic_learning_rate": 9e-6,
    "online_learning_rate": 5e-7,
    "kl_coef": 0.01,
    "lam": 0.95,
    "critic_warmup": 0,
    "trl": {
        name: {"lr_scheduler_type": "cosine", "warmup_steps": 0.03, "gradient_checkpointing": True}
        for name in ("scorer", "policy")
    },
}

HUMAN_ASSISTANT = (  # turns as full-hh-rlhf marks them, each reply closed by EOS
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}\n\nAssistant:"
    "{{ message['content'] }}{{ eos_token }}{% else %}\n\nHuman: {{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\n\nAssistant:{% endif %}"
)
# segment-ppo, Appendix E. Blanks that it prints before closing tokens are taken for typesetting: the models have none
PHI3 = (  # of Phi-3's own without the EOS token at the end of a dialogue, which the paper takes out
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Backbone:
    paper: str
    model: str  # on the hub
    config: dict  # of the architecture, full size
    data: dict[str, str]  # what the paper trained on, by its names on the hub
    engines: dict[str, str]  # stage -> a file of `configs/`
    ran_on: str
    fields: dict  # of the profile
    chat_template: str = ""  # the paper's, which a model without one gets; empty: the model's own


@dataclass(frozen=True)
class MainTable:
    """What a paper's main table on a backbone takes: runs, not printed rows. Rows that share a scorer share it."""

    name: str
    scorers: int
    sampling: int  # policies that sample their answers
    on_pairs: int = 0  # policies that learn from pairs, and sample nothing
    seeds: int = 1  # 1 also where the paper does not say


TRAINED = {"sft": 1, "scorer": 1, "policy": 2}  # models that a stage's engine trains: policy and critic
FROZEN = {"policy": 2}  # and those that it only reads: reference and scorer
_PHI3 = {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32}
_PHI3 |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064}
_LLAMA3 = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
_LLAMA3 |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
_LLAMA2 = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
_LLAMA2 |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}
_QWEN2 = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
_QWEN2 |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}

MAIN_TABLES = {
    "phi3-mini": MainTable("segment-ppo Table 1", scorers=4, sampling=6),  # the two hybrids have scorers of others
    "phi3.1-mini": MainTable("segment-ppo Table 2", scorers=3, sampling=3),
    "llama3-8b": MainTable("segment-ppo Table 2", scorers=3, sampling=3),
    "qwen2-7b": MainTable("adaptive-mask Table 1", scorers=1, sampling=6),
    "llama2-7b": MainTable("tlcr Table 1", scorers=3, sampling=5, on_pairs=2, seeds=3),  # pairs: DPO and FIGA
}
BACKBONES = {
    "phi3-mini": Backbone(
        "segment-ppo",
        "microsoft/Phi-3-mini-4k-instruct",  # script
        _PHI3,
        _SEGMENT_PPO_DATA,
        _TO_SCORER,
        _TO_PPO,
        _segment_ppo(scorer=8, policy=4, passes=2),  # D and script; T9
        chat_template=PHI3,
    ),
    "phi3.1-mini": Backbone(
        "segment-ppo",
        "the SFT checkpoint of Phi-3.1-mini, which the paper names without an address",
        _PHI3,
        _SEGMENT_PPO_DATA,
        _TO_SCORER,
        _TO_PPO,
        _segment_ppo(scorer=8, policy=4, passes=2),
        chat_template=PHI3,
    ),
    "llama3-8b": Backbone(
        "segment-ppo",
        "RLHFlow/LLaMA3-SFT-v2",  # Section 4.1
        _LLAMA3,
        _SEGMENT_PPO_DATA,
        _TO_SCORER,
        _TO_PPO,
        _segment_ppo(scorer=4, policy=2, passes=1),  # script (D says 8 for reward models); T9
        chat_template=LLAMA3,
    ),
    "qwen2-7b": Backbone(
        "adaptive-mask",
        "Qwen/Qwen2-7B-Instruct",  # Section 4.1
        _QWEN2,
        {"pairs": "PRM800K and HelpSteer, annotated by the authors, not released"},  # Section 4.1, Appendix A
        {"scorer": "zero3", "policy": "zero2-offload"},  # ours
        "not said",
        _QWEN,
    ),
    "llama2-7b": Backbone(
        "tlcr",
        "meta-llama/Llama-2-7b-hf",  # Section 5
        _LLAMA2,
        {"pairs": "Dahoas/full-hh-rlhf"},  # Section 5: full-hh-rlhf, 112k and 12.5k rows
        {"sft": "zero2", "scorer": "zero2", "policy": "zero2-offload"},  # B: of PPO; the others are ours
        "8 A100 of 80 GB (Section 5)",
        _TLCR,
        chat_template=HUMAN_ASSISTANT,  # a base model has none
    ),
}
