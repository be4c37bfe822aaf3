"""Ingest: takes bytes, gives an `EventBatch` of columns and the rows that were refused.

One bad row never costs the others, and nothing here keeps anything: what becomes of a batch is up
to the engine. `json_rows` and `files` are the doors, `rules` holds behind each of them, and
`events` has the columns and the frame that the journal stores.
"""
