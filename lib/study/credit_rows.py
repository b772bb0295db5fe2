"""Rows from beyond the three papers: other ways to credit tokens for the bandit's reward, on its reward model, two
rewards of tokens that stand for all that follows, and so are paid without a sum over it (gamma = 0).

What each must show if it is right, written before any run of it:

- `forking` ends within .1 credit of `bandit` on a fifth of its tokens: the testbed's choices are where entropy is.
- `vine` has the highest fidelity of all rows that are paid the bandit's score, for a policy's own continuations say
  what a segment changed, and `vine-full` ends ahead of `bandit`. At equal tokens (`vine`) it ends behind.
- `macro` ends alike with `bandit`: at gamma = lambda = 1 macro actions only average the critic and join ratios.
  `macro-lambda` ends ahead of `bandit-lambda`: with lambda .95, as in its paper, a fifth of the steps lie between a
  choice and the reward.
- `q-rm` agrees with Monte Carlo ranks more than `token`, whose scorer it shares, and does not loop as `token` does:
  a score that is a token's whole value cannot be collected twice.
- `distil`, a control, ends ahead of `bandit` and within .2 credit of its teacher, the policy of `oracle-dense`.
"""

from dataclasses import replace

from study.row import CONTROL, Method, entropy

FORKING = "80/20 (arXiv 2506.01939), on PPO; without DAPO's clip, sampling and length rules"
VINE = "VinePPO (arXiv 2410.01679), SPO-chain (arXiv 2505.23564), on entropy segments; 3 continuations, no mask"
MACRO = "MA-RLHF (arXiv 2410.02743), 5-grams; no clip of scores"
# Its reward model is a head on every token under Bradley-Terry on their mean, `token`'s but for a margin of 2 and a
# factor of .2; in PPO its scores, over their deviation, are the targets of the critic, and advantages are what is left.
Q_RM = "Q-RM (arXiv 2505.23363), on the token scorer; without its margin"
DISTIL = f"{CONTROL}: on-policy distillation (arXiv 2306.13649, reverse KL), every token's own KL; teacher oracle-dense"


def rows(bandit: Method, token: Method) -> tuple[Method, ...]:
    """The rows, on the bandit's reward model and normaliser, and on the token scorer."""

    def row(name: str, label: str, source: str, **changes) -> Method:
        return replace(bandit, name=name, label=label, source=source, **changes)

    finished = {"cuts": entropy(1.75), "continuations": 3}
    actions, discounted, alone = {"macro": {"kind": "ngram", "n": 5}}, {"lam": 0.95}, {"gamma": 0.0}
    return (
        row("forking", "Forking tokens", FORKING, options={"top_entropy_quantile": 0.2}),
        # a sixteenth of the answers: an SFT answer has 6.5 segments, and three finished from each make it 15
        # times its tokens, measured on 64 answers of profile cpu
        row("vine", "Vine", VINE, trainer="vine", options=finished | {"answers": 1 / 16}),
        row("vine-full", "Vine, all answers", VINE, trainer="vine", options=finished),
        row("macro", "Macro actions", MACRO, options=actions),
        row("macro-lambda", "Macro actions, lambda .95", MACRO, options=actions | discounted),
        row("bandit-lambda", "Bandit, lambda .95", "this study: the twin of `macro-lambda`", options=discounted),
        replace(
            token,
            name="q-rm",
            label="Q-RM",
            source=Q_RM,
            normaliser={"kind": "global"},
            scale="none",  # a token's score is its whole return, and of deviation 1 as it is
            options=alone,
        ),
        Method(
            "distil",
            "Distilled from the oracle",
            DISTIL,
            scorer="none",
            segmentation={"kind": "token"},
            shaping={"kind": "teacher", "by": "oracle-dense"},
            options=alone,
        ),
    )
