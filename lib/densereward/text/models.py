"""Tokenizers, tiny causal LMs from configs, and the token scorer that serves as reward model and as critic.

Follows segment-ppo Section 2.1: a reward model is the SFT model without its unembedding layer plus a scalar head. The
head here is read at every token; which tokens count is decided by the segmentation that comes with the batch.

What is loaded is what was saved, or an error: weights that do not fit are refused by name (transformers would draw them
at random, anew at every load), committed models are checked against their hashes, a generation_config.json is not
obeyed, and the EOS token is the one with which the chat template ends a turn.

A folder is read, never run: weights are safetensors and no pickle, code that it brings along is not loaded, and chat
templates run in transformers' sandbox.

Left out: value heads shared with the policy (the critic is a model of its own), quantisation.

Book: reward_models.md
"""

import hashlib
import inspect
import json
import warnings
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from densereward.text.tokens import CHAT_TEMPLATE, refuse_deaf, turn_end, without_clock

EOS, PAD = "<|end|>", "<|pad|>"
HASHES = "hashes.json"  # {file: sha256} beside the files of a committed model
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# of a generation_config.json: what is no matter of which tokens are sampled
HARMLESS = {"_from_model_config", "transformers_version", "use_cache", "output_attentions", "output_hidden_states"}
HARMLESS |= {"bos_token_id", "pad_token_id", "eos_token_id", "do_sample", "max_length", "return_dict_in_generate"}


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


def load_causal_lm(path: str | Path, dtype: torch.dtype = torch.float32, chat_template: str | None = None):
    """(model, tokenizer) of a saved or hub model, with one end, the tokenizer's EOS: the token with which the chat
    template ends a turn; `chat_template` is for a base model, which has none. Its generation_config.json is not obeyed;
    what that would have changed is said.

    Raises ValueError, naming the mend, for a folder that is none, or holds an adapter or a scorer; without a tokenizer,
    a chat template or an EOS token; for weights that are not the architecture's, and tokens without an embedding."""
    _check_folder(path)
    _check_hashes(path)
    tokenizer = _load_tokenizer(path, chat_template)
    model = loaded(AutoModelForCausalLM, path, dtype=dtype)
    _check_embeddings(path, model, tokenizer)
    _neutralise(path, model, tokenizer)
    return model, tokenizer


def _check_folder(path: str | Path) -> None:
    """ValueError where a causal LM cannot be read from `path`, by what lies there."""
    folder, name = Path(path), str(path)
    if not folder.exists():
        if isinstance(path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ValueError(f"model {name} does not exist; give the folder of a saved model, or a name on the hub")
        return
    if not folder.is_dir():
        raise ValueError(f"model {name} is a file; give the folder that holds it with its config and tokenizer")
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{name} holds a PEFT adapter; merge it into its model (merge_and_unload), save that with its tokenizer"
        )
    if not (folder / "config.json").exists():
        raise ValueError(f"{name} holds no config.json; give the folder that a model was saved in (save_pretrained)")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as problem:
        raise ValueError(f"{folder / 'config.json'} is no JSON object ({problem}); save the model again") from None
    if not any(folder.glob("*.safetensors")) and (pickled := [f for f in folder.iterdir() if f.suffix in PICKLES]):
        raise ValueError(f"{pickled[0]} is a pickle, which may run code when it is read: save the model as safetensors")
    if kind == TokenScorerConfig.model_type:
        raise ValueError(f"{name} holds a token scorer, no language model; give the folder of a causal LM")


def _load_tokenizer(path: str | Path, chat_template: str | None = None):
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as problem:  # of many kinds; all of them long
        if not Path(path).exists():
            raise ValueError(f"model {str(path)!r} is no folder here, and is not to be had from the hub") from problem
        why = _first_line(problem)
        raise ValueError(f"{path} holds no tokenizer that can be read ({why}); save one there") from problem
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    if not isinstance(tokenizer.chat_template, str) or tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer of {path} lacks a chat template or an EOS token: set them and save it again")
    template = without_clock(tokenizer.chat_template)
    if template != tokenizer.chat_template:
        said = "writes today's date; here it writes the same date on every day, or ids would change overnight"
        warnings.warn(f"the chat template of {path} {said}", stacklevel=1)
        tokenizer.chat_template = template
    refuse_deaf(tokenizer)
    end = turn_end(tokenizer)
    if end is not None and end != tokenizer.eos_token:
        said = f"ends a turn with {end}, its EOS token is {tokenizer.eos_token}; here answers end with {end} throughout"
        warnings.warn(f"the tokenizer of {path} {said}", stacklevel=1)
        tokenizer.eos_token = end
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def loaded(cls, path: str | Path, **settings) -> PreTrainedModel:
    """`cls.from_pretrained(path)`, with every weight the file's. Raises ValueError that names weights which are
    missing, not of the architecture, or of another shape, and files that are not those that HASHES lists."""
    _check_hashes(path)
    safe = {"use_safetensors": True, "trust_remote_code": False}
    try:
        model, found = cls.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **safe, **settings
        )
    except Exception as problem:  # of as many kinds as there are ways to damage a folder
        if isinstance(problem, ValueError) and cls.__module__.startswith("densereward."):
            raise  # our own words
        raise ValueError(
            f"the weights of {path} cannot be read ({_first_line(problem)}); save the model again"
        ) from problem
    _refuse(path, model, found)
    return model


def _first_line(problem: Exception) -> str:
    lines = (line.strip() for line in str(problem).splitlines())
    return f"{next(filter(None, lines), type(problem).__name__):.200}"


def _refuse(path: str | Path, model: PreTrainedModel, found: dict) -> None:
    """ValueError where transformers' loading report `found` names any weight."""
    shapes = [f"{name} ({list(file)} for {list(wanted)})" for name, file, wanted in found["mismatched_keys"]]
    parts = {"missing": found["missing_keys"], "unexpected": found["unexpected_keys"], "of another shape": shapes}
    parts["faulty"] = found.get("error_msgs") or ()
    said = [
        f"{what}: {', '.join(sorted(names)[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in parts.items()
        if names
    ]
    if said:
        mend = "save the bare model (unwrapped, adapters merged, every shard), or give the folder of one"
        raise ValueError(f"the weights of {path} are not those of a {type(model).__name__} ({'; '.join(said)}): {mend}")


def _check_embeddings(path: str | Path, model: PreTrainedModel, tokenizer) -> None:
    """ValueError for tokens without an embedding; for the pad token alone, EOS takes its place."""
    rows = model.get_input_embeddings().num_embeddings
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if tokenizer.pad_token in beyond:
        said = f"has no embedding (id {tokenizer.pad_token_id} of {rows}): padded with {tokenizer.eos_token} instead"
        warnings.warn(f"the pad token {tokenizer.pad_token} of {path} {said}", stacklevel=1)
        beyond.pop(tokenizer.pad_token)
        tokenizer.pad_token = tokenizer.eos_token
    if beyond:
        token, i = next(iter(beyond.items()))
        raise ValueError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens, its model {rows} embeddings, none for {token!r} "
            f"({i}): resize them (resize_token_embeddings), train them, and save both again"
        )


def _neutralise(path: str | Path, model: PreTrainedModel, tokenizer) -> None:
    """The model with a generation config that holds the ids of its special tokens and nothing else."""
    theirs = model.generation_config
    asked = {name: x for name, x in theirs.to_diff_dict().items() if name not in HARMLESS and x is not None}
    ends = theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
    if further := [i for i in ends if i not in (None, tokenizer.eos_token_id)]:
        asked["eos_token_id"] = further
    if asked:
        said = ", ".join(f"{name} {x!r:.40}" for name, x in sorted(asked.items()))
        warnings.warn(
            f"generation_config.json of {path} is not obeyed ({said}): answers are samples of the model's own "
            f"distribution, up to {tokenizer.eos_token}",
            stacklevel=1,
        )
    own = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**own, bos_token_id=model.config.bos_token_id)
    model.config.eos_token_id = tokenizer.eos_token_id


def check_length(path: str | Path, longest: int) -> None:
    """ValueError where the model in `path` has fewer positions than the `longest` prompt and completion together, or is
    none."""
    _check_folder(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except Exception as problem:
        said = f"model {str(path)!r} has no config that transformers can read, here or on the hub"
        raise ValueError(f"{said} ({_first_line(problem)}); save the model again") from problem
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < longest:
        raise ValueError(
            f"the model {path} has {positions} positions, prompt and completion may take {longest} tokens: lower "
            "max_prompt_length or max_completion_length"
        )


def seal(folder: str | Path) -> None:
    """Write HASHES: the sha256 of every file in `folder`, for `verified`."""
    (Path(folder) / HASHES).write_text(json.dumps(_hashes(Path(folder)), indent=1, sort_keys=True) + "\n")


def verified(folder: str | Path) -> Path:
    """The folder of a committed model, its files being those that were exported. ValueError that names what is not."""
    folder = Path(folder)
    mend = "restore the folder (git checkout), or export its models anew"
    try:
        listed = dict(json.loads((folder / HASHES).read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(f"{folder / HASHES} is missing or damaged: {mend}") from None
    there = _hashes(folder)
    if wrong := sorted(name for name in {*listed, *there} if listed.get(name) != there.get(name)):
        how = "is missing" if wrong[0] not in there else "is not the file that was exported"
        raise ValueError(f"{folder / wrong[0]} {how}: {mend}")
    return folder


def _check_hashes(path: str | Path) -> None:
    if (Path(path) / HASHES).exists():
        verified(path)


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.name != HASHES}


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
        if not self.backbone:
            raise ValueError("the config names no backbone: give the folder of a token scorer")
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
        shape = self.backbone.config
        width = getattr(shape, "word_embed_proj_dim", shape.hidden_size)  # OPT-350m projects its hidden states
        self.head = torch.nn.Linear(width, 1, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, path, *args, output_loading_info: bool = False, **settings):
        """A saved scorer, with every weight the file's: ValueError as `loaded` raises it."""
        if not output_loading_info:
            return loaded(cls, path, **settings)
        return super().from_pretrained(path, *args, output_loading_info=True, **settings)

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
        """`segment_ends` [B, L] marks the tokens at which segments are read, of rows padded at their ends; without it,
        the last real token is read (bandit)."""
        mask = None  # nothing real looks at what comes behind it
        if segment_ends is None:
            mask = attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            positions = torch.arange(input_ids.size(1), device=input_ids.device) * attention_mask  # [B, L]
            segment_ends = torch.nn.functional.one_hot(positions.argmax(1), input_ids.size(1))
        return SequenceClassifierOutput(
            logits=self.aggregate(self.token_scores(input_ids, mask), segment_ends)[:, None]
        )

    def aggregate(self, token_scores: torch.Tensor, segment_ends: torch.Tensor) -> torch.Tensor:
        """e(x, y) of segment-ppo Eq. 4, [B]: mean (or sum) over segment ends of token scores [B, L], times
        `config.scale`."""
        ends = segment_ends.to(token_scores.dtype)
        total = (token_scores * ends).sum(1)
        score = total / ends.sum(1) if self.config.aggregate == "mean" else total
        return self.config.scale * score


def scorer_from(model, kind: type = TokenScorer, **settings) -> TokenScorer:
    """A scorer of a kind that starts from a causal LM's trunk, with a fresh head (segment-ppo Section 2.1). Random:
    torch's global state."""
    backbone = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}  # no paths
    scorer = kind(TokenScorerConfig(backbone, pad_token_id=model.config.pad_token_id, **settings))
    scorer.backbone.load_state_dict(model.base_model.state_dict())
    return scorer.to(model.dtype)


def to_device(model):
    """On the GPU where there is one."""
    return model.to("cuda") if torch.cuda.is_available() else model
