"""Tokenizers, tiny causal LMs from configs, and the token scorer that serves as reward model and as critic.

Follows segment-ppo Section 2.1: a reward model is the SFT model without its unembedding layer plus a scalar head. The
head here is read at every token; which tokens count is decided by the segmentation that comes with the batch.

Left out: value heads shared with the policy (the critic is a model of its own), quantisation, adapters.
"""

import inspect
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

EOS, PAD = "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with role tokens, `<|end|>` as EOS and a chat template.
    Deterministic."""
    bpe = ByteLevelBPETokenizer()
    special = [PAD, EOS, "<|user|>", "<|assistant|>", "<|system|>"]
    bpe.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=EOS, pad_token=PAD, additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def tiny_llama(tokenizer, width: int, layers: int, heads: int = 8, max_length: int = 512) -> LlamaForCausalLM:
    """A Llama from its config with random weights: `width` wide, `layers` deep, tied embeddings. Random: torch's global
    state.

    Weights start with a deviation of width^-1/2. At the .02 of the config's default, meant for models that are ten
    times as wide, attention barely starts to learn: such a model never knew which items it had named before."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        initializer_range=width**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def load_causal_lm(path: str | Path, dtype: torch.dtype = torch.float32):
    """(model, tokenizer) of a saved or hub model. Raises ValueError when the tokenizer has no chat template or no EOS
    token."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.chat_template is None or tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer of {path} lacks a chat template or an EOS token: set them and save it again")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype), tokenizer


class TokenScorerConfig(PretrainedConfig):
    """The backbone's config, how segment scores become one score per response ("mean", segment-ppo Eq. 4, or "sum"),
    and the factor on that score: with "mean" a factor above 1 lets a small model separate pairs of which one segment in
    eight differs."""

    model_type = "densereward-token-scorer"

    def __init__(self, backbone: dict | None = None, aggregate: str = "mean", scale: float = 1.0, **kwargs):
        if aggregate not in ("mean", "sum"):
            raise ValueError(f"aggregate is {aggregate!r}: choose 'mean' (segment-ppo Eq. 4) or 'sum'")
        self.backbone = backbone or {}
        self.aggregate = aggregate
        self.scale = scale
        super().__init__(**{"num_labels": 1, **kwargs})

    def backbone_config(self) -> PretrainedConfig:
        return AutoConfig.for_model(**self.backbone)


class TokenScorer(PreTrainedModel):
    """A transformer with a scalar head, read at every token; `forward` aggregates it over segment ends to one score per
    response.

    `forward` returns that score as `logits` [B, 1], which is what TRL's `RewardTrainer` compares (segment-ppo Eq.
    3-4)."""

    config_class = TokenScorerConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: TokenScorerConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config())
        self.head = torch.nn.Linear(self.backbone.config.hidden_size, 1, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if module is getattr(self, "head", None):
            torch.nn.init.normal_(module.weight, std=1 / (module.in_features + 1))

    def token_scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The head at every token, [B, L], in units of reward. Rows without padding, or with all of it at the end, need
        no mask."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        takes_positions = "position_ids" in inspect.signature(self.backbone.forward).parameters
        if attention_mask is not None and takes_positions:  # else left padding would shift them
            inputs["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        hidden = self.backbone(**inputs).last_hidden_state
        return self.head(hidden).squeeze(-1).float()

    def forward(self, input_ids, attention_mask=None, segment_ends=None, **unused) -> SequenceClassifierOutput:
        """`segment_ends` [B, L] marks the tokens at which segments are read; without it, the last real token is
        (bandit)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if segment_ends is None:
            positions = torch.arange(input_ids.size(1), device=input_ids.device) * attention_mask  # [B, L]
            segment_ends = torch.nn.functional.one_hot(positions.argmax(1), input_ids.size(1))
        return SequenceClassifierOutput(
            logits=self.aggregate(self.token_scores(input_ids, attention_mask), segment_ends)[:, None]
        )

    def aggregate(self, token_scores: torch.Tensor, segment_ends: torch.Tensor) -> torch.Tensor:
        """e(x, y) of segment-ppo Eq. 4, [B]: mean (or sum) over segment ends of token scores [B, L], times
        `config.scale`."""
        ends = segment_ends.to(token_scores.dtype)
        total = (token_scores * ends).sum(1)
        return self.config.scale * (total / ends.sum(1) if self.config.aggregate == "mean" else total)


def scorer_from(model, **settings) -> TokenScorer:
    """A scorer that starts from a causal LM's trunk, with a fresh head (segment-ppo Section 2.1). Random: torch's
    global state."""
    backbone = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}  # no paths
    scorer = TokenScorer(TokenScorerConfig(backbone, pad_token_id=model.config.pad_token_id, **settings))
    scorer.backbone.load_state_dict(model.base_model.state_dict())
    return scorer.to(model.dtype)
