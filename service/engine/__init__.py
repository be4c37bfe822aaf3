"""Engine: entries in, receipts out; on stable storage before it answers.

One thread journals what waits in one commit, folds it, and commits what follows. `journal` and
`state_store` are the two ports on SQLite, `processor` the order of things, `engine` the thread,
`fold` the state. State is a fold of the journal: replaying the journal gives it back bit for bit.
"""
