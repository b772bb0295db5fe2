"""Dense rewards for language models, on today's TRL: what a stranger imports into a project of their own.

Imports run down this list, and nothing here knows the testbed, the study or the report:

    seeding.py    one seed, one stream per use
    canonical.py  values as JSON that says one thing in one way
    checked.py    types and ranges of what may be asked for; one line where a value is none
    progress.py   how far a long stage is
    text/         conversations to ids, models, log-probabilities and entropies, samples
    reward/       boundaries, scores, normalisers, interpolation, masks
    labels/       revisers and edit labels
    training/     trainers
"""
