"""Slicewatch, the service: the walk of one row, each station a folder, each arrow a type.

| # | where | takes | gives | promises |
|---|---|---|---|---|
| 1 | `ingest/` | bytes | `EventBatch` + `Rejected` | one bad row never costs the others |
| 2 | `engine/` | `EventBatch` | `Receipt` | on stable storage before it answers |
| 3 | `monitor/` | events | labelled rows, slices, `Finding`s | a label counts once; bounded |
| 4 | `alerts/` | `Finding`s | `Transition`s | one alert a fingerprint; parents explain children |
| 5 | `notify/` | `Transition`s | signed deliveries | at least once, with the same id every time |

What people see of it is drawn by `evidence/`; `app` puts the parts together. Nothing here happens
at import.
"""
