"""The stages of a run, a file each: what it needs, its key, how it is built. A `Run` has them as attributes.

    sft ----> preferences ----> scorer ----> policy ----> measures
                   \\---> revisions --/   mask --/

- `sft.py`: policy, reference, segmenter and trunk of every scorer. `preferences.py`: tokenised pairs, and entropies.
- `revisions.py`: rejected answers revised, as token labels and as pairs.
- `scorer.py`: who scores. `reward.py`: what is paid for a score. `mask.py`: which tokens are learnt from.
- `policy.py`: which trainer; `ppo.py`, `groups.py` (no critic), `rounds.py` (online DPO, rejection sampling),
  `pairs.py` (DPO, KTO, FIGA). `prompts.py`: what all that sample are given alike. `watched.py`: what curves record.
"""
