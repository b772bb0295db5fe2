"""What is measured of answers, rewards, masks and policies.

measure.py            what a record says of a policy
credit.py             credit fidelity, causal shares
signals.py            the advantages whose credit it is, of every trainer that has some
fidelity_records.py   what credit fidelity is made of, as records
in_time.py            which segmentation pays in time
answer_rewards.py     what answers are paid, under any row
few_answers.py        a few answers, token by token
one_answer.py         one answer under every reward, token by token
constants.py          the constant per segment
wage_records.py       the same as records, of a profile's seeds
edits.py              answers with one clause more, or one said again
locations.py          how far the normaliser's lines hold
variance.py           the noise of the policy gradient
expected_gradient.py  which rewards leave the expected policy gradient as it is, exactly
decomposition.py      the error of a segment's reward, taken apart
granularity.py        which granularity wins at which noise
mask_quality.py       what masks keep, and whether it is right
revisers.py           how good a reviser and its labels are
edit_labels.py        how true edit labels are
human_spans.py        whether edit labels find what people call an error
discrimination.py     what a discriminator tells apart
cross.py              policies under each other's rewards
best_of_n.py          the best of n answers, exactly; step scores as one number
stepwise.py           the best of n next steps
process_outcome.py    process against outcome reward models
smollm2.py            a real pretrained model through the pipeline
frozen_trunk.py       scorers whose lower layers are computed once
cuts.py               where segmentations cut real text
token_lengths.py      tokens per answer of a sweep
judges.py             MT-Bench, Arena-Hard, AlpacaEval and adaptive-mask's judge, asked
judge_prompts.py      what they are asked
leaderboard_files.py  answers in the files of the leaderboards' own tools
judged.py             testbed policies before the oracle, a judge that likes length, a language model
stored_verdicts.py    what published verdicts add up to, and what judging costs
benchmarks.py         what training costs elsewhere: the papers' benchmarks, tasks of the testbed
oracle_units.py       the unit in which the oracle was paid, from policies on disk
label_cost.py         what edit labels cost, in seconds and memory
asked.py              a language model as reviser and judge of real text
weighed.py            a language model made to choose one of two letters
tax_records.py        the latter as records, of trained policies on disk
ledger_records.py     what claims ask of policies and scorers beyond a run's record
verdicts.py           MT-Bench means, position bias, agreement with labels
winrate.py            win rates from verdicts: AlpacaEval 2, controlled for length, Arena-Hard
"""
