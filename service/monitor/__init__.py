"""Monitor: takes a model's rows, gives `Finding`s: who got worse than others, and what moved.

`model` learns what is left open, `monitor` is the walk: `join` brings labels to their predictions,
`slices` says whose rows they are, `watch` holds the error detectors, and the observers (`inputs`,
`quality`, `silence`, `label_process`, `composition`) look at predictions, labelled or not. `naming`
and `stories` make of what crossed a few findings that a person can act on.

A label counts once, within its horizon; the same rows give the same findings, however requests cut
them; every collection is bounded. No clock is read here and no I/O is done.
"""
