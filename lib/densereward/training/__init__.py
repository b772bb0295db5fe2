"""Trainers, on TRL's. They take plain arguments or TRL's own configs.

settings.py         arguments that all share, one epoch's schedule, progress
sft.py              supervised fine-tuning
reward_model.py     Bradley-Terry on segment scores
launch.py           scripts on several processes and nodes, by accelerate
labelled.py         one epoch over labelled answers, for the next two and FIGA
discriminator.py    TLCR's discriminator
step_model.py       process reward models
ppo.py              DensePPOTrainer: PPO with a reward per token
padding.py          micro-batches of like length, trimmed
preference.py       DPO
kto.py              KTO
masked.py           masks in TRL's trainers
appo.py             PPO with a mask
macro.py            PPO on macro actions
rounds.py           a round of online learning: answers, best and worst
online.py           DPO and rejection sampling in rounds, masked or not
counting.py         curves and what was sampled, for trainers of TRL's
group.py            RLOO and GRPO
gtpo.py             GRPO whose outcome entropy lays on tokens
remax.py            ReMax
vine.py             Monte Carlo values of segments in place of a critic
step_advantages.py  GRPO and RLOO with a reward per segment, without a critic
figa.py             FIGA
"""
