"""Checks of the boards: types, queries against a real run, house rules, and panels as drawn."""
