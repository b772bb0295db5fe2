"""The comparison: rows as data, a run with its stages as attributes, records.

    row -> run.sft -> run.preferences -> run.revisions -> run.scorer -> run.mask -> run.policy -> record

What reads records needs no torch: `summary.py` and all above it but `effort.py`'s counting.

    row.py           what a row is
    methods.py       every method as a row
    mask_rows.py     adaptive-mask's rows
    credit_rows.py   rows from beyond the three papers
    deciding.py      which row decides a row's mask
    profiles.py      smoke, brief, small, cpu, smollm2, gpu: sizes and hyperparameters
    pretrained.py    a pretrained model from the package registry
    backbones.py     the papers' models, data and hyperparameters, with their sources
    scale.py         what they need, and a dry run of them
    engines.py       a stage on several processes
    cards.py         a card for every model that is saved
    records.py       JSON lines with provenance
    identity.py      which runs are the same
    effort.py        which labels and samples a run used
    stats.py         intervals, contrasts, tests over few seeds, matched KL
    summary.py       which records are the comparison; means over seeds
    words.py         what tables and figures call what is measured
    sweeps.py        runs over length, data and reviser, and the lines that make them
    density_cells.py the grid of the map of where density pays
    density_map.py   runs over horizon, pairs, price of an item too many, and lambda; makes what is missing
    cache.py         stages on disk, by the hash of what determines them
    sources.py       what code a stage rests on
    run.py           a run of a row: its stages as attributes
    stages/          how each stage is built
    measures/        what is measured of answers, rewards and policies
    record.py        a run becomes a record
    plan.py          a study as a graph of tasks
    command_line.py  command lines whose errors are plain lines
    runner.py        methods x seeds, one record each; resumes
    tuning.py        equal trials for reward models and policies
    choosing.py      their grids, and what is chosen of them
    export.py        the models that data/models holds
"""
