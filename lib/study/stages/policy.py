"""The last training stage: which trainer a row is given to."""

from study.cache import Artifact
from study.stages import groups, pairs, ppo, rounds

TRAINERS = {
    "ppo": ppo.train,
    **dict.fromkeys(("rloo", "grpo", "gtpo", "remax", "vine", "dense-grpo", "dense-rloo"), groups.train),
    **dict.fromkeys(("online-dpo", "rs"), rounds.train),
    **dict.fromkeys(("dpo", "kto"), pairs.on_pairs),
    "figa": pairs.on_revisions,
}
CURVES = {  # what records call the curve of a trainer's loss
    "dpo": "preference_curve",
    "kto": "preference_curve",
    "figa": "revision_curve",
}


def policy(run) -> Artifact | None:
    """The trained policy (`policy/`) with its curves; None for a row that trains none."""
    return TRAINERS[run.row.trainer](run) if run.row.trainer != "none" else None
