"""The SFT model: policy, reference, segmenter and trunk of every scorer. Needs nothing; shared by all seeds. A model
that was given is taken as it is, unless the profile says how to fine-tune one (`trl`'s "sft")."""

from pathlib import Path

from densereward.seeding import seed_everything
from densereward.text import models, tokens
from densereward.training import settings, sft
from study.cache import save_json
from study.sources import DATA

FIELDS = (
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


def sft_model(run) -> Path | str:
    """The folder (or hub name) of the SFT model: the one given, a committed one, or one trained here."""
    p = run.profile
    longest = p.max_prompt_length + p.max_completion_length
    if run.model is not None:
        models.check_length(run.model, longest)
    if run.model is not None and "sft" not in p.trl:
        return Path(run.model) if Path(run.model).exists() else run.model
    if run.committed:
        return models.verified(run.committed / "sft")

    def build_sft(folder: Path) -> None:
        rows = run.splits(seed=0, sft=p.sft_rows)["sft"]
        if run.model is None:
            part = rows.select(range(min(len(rows), 8_000)))
            texts = [m["content"] for row in part for m in row["prompt"] + row["completion"]]
            tokenizer = models.build_tokenizer(texts, p.vocab_size)
        else:
            model, tokenizer = models.load_causal_lm(run.model, run.dtype, p.chat_template)
        run.refuse_long_prompts(tokenizer)
        rows, report = tokens.tokenize_sft(rows, tokenizer, p.max_prompt_length, p.max_completion_length)
        seed_everything(0)
        if run.model is None:  # made from nothing, so that adapters would have nothing to adapt
            model = models.tiny_llama(tokenizer, p.width, p.layers, max_length=longest)
        else:
            model = run.adapted(model)
        sizes = (p.sft_batch, p.sft_epochs, p.sft_learning_rate)
        curve = sft.train_sft(model, tokenizer, rows, folder, *sizes, **run.further("sft"))
        save_json(folder / "curve.json", {"loss": curve, "report": str(report)})

    return run.stage(
        "sft", build_sft, run.key(*FIELDS, seeded=False, trl="sft"), [*DATA, models, sft, settings], []
    ).path
