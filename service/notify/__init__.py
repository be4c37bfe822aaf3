"""Notify: transitions in, signed webhooks out; at least once, the same `webhook-id` every time.

`outbox` writes a delivery for each endpoint that wants to hear of a transition, in the transaction
that stores the transition. `worker` leases deliveries that are due and posts them through `egress`,
which connects only to addresses that may be reached. `webhook` is the format, without any I/O.
"""
