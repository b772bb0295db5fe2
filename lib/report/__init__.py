"""Records to tables and figures to pages. Figures and tables need no torch.

lines.py               names at the ends of lines, values at their points
look.py                how every figure looks, and each method in it
phone.py               a figure once more, its panels below each other
ideas.py               what each paper pays one answer's tokens, drawn
grid.py                tables: one line a cell, sorted, folded
show.py                figures, tables and notes as notebooks show them
strips.py              tokens coloured by reward
parameters.py          the notebooks' parameters, checked
published.py           the papers' tables, loaded
published_rows.py      which method each printed row is
tables.py              printed tables beside ours: rows, order, signs
catalogue.py           every method in words, for its page
controlled.py          returns at equal KL, at equal length
outcomes.py            five outcomes of a training run, compared over seeds
controls.py            what must come out if the instrument is right
instrument.py          the instrument before and after
ledger.py              what the papers claim, as data
claims.py              what the papers claim, against our records
twins.py               masked methods less their twins without a mask
wins.py                win rates on the same prompts, most preferred answers
foretold.py            what every row was foretold to end like, against records
own_settings.py        equal trials, and what the proxy and the truth choose of them
foretells.py           which measurement before PPO foretells its end
density_map.py         where density pays, cell by cell
axes.py                the same, by axes that readers choose
compute.py             what the records cost
horizon.py             what the sweeps over length and data say
figures.py             the comparison's figures
overview.py            every system of the three papers in one figure
diagnostics.py         figures of entropies, cuts and scorers
reward_figures.py      what rewards pay
mask_figures.py        adaptive masks
partition_figures.py   the error decomposition
preference_figures.py  win rates, calibration, policies under other rewards
process_figures.py     best of n
smollm2.py             a real pretrained model: predictions, figures
real_text.py           real text: reward models and their judge, predictions
horizon_figures.py     length, data, reviser's error
judging_figures.py     edit labels on real answers, length control, the alignment tax
tried.py               a language model that was tried as reviser and judge
instrument_figures.py  what was wrong with the instrument
scaling.py             the papers' backbones, and GPU-hours by formula
engines.py             every trainer on two processes, against one
speed.py               ratios of speed and memory, against their marks
manifest.py            what every page was made of, and a check of it
notebooks.py           runs the notebooks and builds the book
"""
