"""Rows from beyond the three papers: other ways to credit tokens for the bandit's reward, all on its reward model.

What each must show if it is right, written before any run of it:

- `forking` ends within .1 credit of `bandit` on a fifth of its tokens: the testbed's choices are where entropy is.
- `vine` has the highest fidelity of all rows that are paid the bandit's score, for a policy's own continuations say
  what a segment changed, and `vine-full` ends ahead of `bandit`. At equal tokens (`vine`) it ends behind.
- `macro` ends alike with `bandit`: at gamma = lambda = 1 macro actions only average the critic and join ratios.
  `macro-lambda` ends ahead of `bandit-lambda`: with lambda .95, as in its paper, a fifth of the steps lie between a
  choice and the reward.
"""

from dataclasses import replace

from study.row import Method, entropy

FORKING = "80/20 (arXiv 2506.01939), on PPO; without DAPO's clip, sampling and length rules"
VINE = "VinePPO (arXiv 2410.01679), SPO-chain (arXiv 2505.23564), on entropy segments; 4 continuations, no token mask"
MACRO = "MA-RLHF (arXiv 2410.02743), 5-grams; no clip of scores"


def rows(bandit: Method) -> tuple[Method, ...]:
    """The rows, on the bandit's reward model and normaliser."""

    def row(name: str, label: str, source: str, **changes) -> Method:
        return replace(bandit, name=name, label=label, source=source, **changes)

    finished = {"cuts": entropy(1.75), "continuations": 4}
    actions, discounted = {"macro": {"kind": "ngram", "n": 5}}, {"lam": 0.95}
    return (
        row("forking", "Forking tokens", FORKING, options={"top_entropy_quantile": 0.2}),
        # a sixteenth of the answers: with what is sampled to value their segments, about as many tokens as the bandit's
        row("vine", "Vine", VINE, trainer="vine", options=finished | {"answers": 1 / 16}),
        row("vine-full", "Vine, all answers", VINE, trainer="vine", options=finished),
        row("macro", "Macro actions", MACRO, options=actions),
        row("macro-lambda", "Macro actions, lambda .95", MACRO, options=actions | discounted),
        row("bandit-lambda", "Bandit, lambda .95", "this study: the twin of `macro-lambda`", options=discounted),
    )
