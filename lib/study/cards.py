"""A card (README.md, as hubs read it) in every folder of a model that a run's stage saves, or `export.py`.

Left out: what was measured of the model, which its record says, and dates: an equal rebuild has equal bytes.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

WHAT = {
    "sft": "The SFT model: policy, reference, segmenter and trunk of the scorers.",
    "scorer": "A token scorer, trained by Bradley-Terry on preference pairs. It loads as `TokenScorer`.",
    "discriminator": "A token scorer, trained to tell tokens that a reviser brings in from those that it takes out.",
}


def with_cards(run, name: str, build: Callable[[Path], object]) -> Callable[[Path], object]:
    """`build`, after which every folder of a model has its card."""

    @functools.wraps(build)  # the cache knows a stage by the code that builds it
    def built(folder: Path) -> None:
        build(folder)
        for config in sorted(folder.rglob("config.json")):
            part = config.parent.name if config.parent != folder else ""
            (config.parent / "README.md").write_text(str(card(run, name, part)))

    return built


def card(run, name: str, part: str = "", **further: str) -> ModelCard:
    """The card of the model in a stage's folder, or in its folder `part`; `further` lines are told at the end."""
    hub = run.model if run.model and not Path(run.model).exists() else None
    row, settings = run.row, run.profile.trl
    data = ModelCardData(base_model=hub, library_name="transformers", tags=["rlhf", "dense-rewards", name])
    what = WHAT.get(name, f"The {part or 'policy'} of {row.label}, trained by {name}.")
    start = hub or ("a given model" if run.model else "random weights")
    lines = {
        "profile": run.profile.name,
        "seed": run.seed,
        "data": "the testbed" if run.testbed else f"{Path(run.dataset).name}, sha256 {run.content[:12]}",
        "started from": start if name == "sft" else f"the SFT model, which started from {start}",
        "further settings": settings or "none",
    }
    if name != "sft":
        lines |= {"row": f"{row.name} ({row.source})", "segmentation": row.segmentation, "scorer": row.scorer}
    told = "\n".join(f"- {title}: {x}" for title, x in (lines | further).items())
    note = "Made by Dense Rewards, Side by Side, a reproducibility study. What was measured of it is not on this card."
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {run.profile.name}, {name}\n\n{what}\n\n{told}\n\n{note}\n")
