"""Alerts: findings in, transitions of alerts out; one a fingerprint, parents explain children.

An alert's life is pending → firing → resolved, or retracted where later labels took the evidence
back. Muting is never a state: acknowledgements lie beside the alert and are joined when it is read.
"""
