"""From token scores to a reward per token.

tokens [B, T] -> boundaries -> segment ids [B, T] -> scores [B, S] -> normalise -> correct -> interpolate
-> rewards [B, T]


recipe.py    what a dense reward is made of, as data
segments.py  boundaries and segments
implicit.py  a DPO policy's log-ratios, read as a scorer
log_odds.py  a discriminator's log-odds as rewards (TLCR)
rewards.py   normalisers, corrections, interpolation
dense.py     the pipeline above, as one function
masks.py     adaptive masks: which tokens a loss may see
shaping.py   what is made of dense rewards: RTO, ABC, pooling over segments
"""
