"""Boards: a module each, whose function of the same name gives it."""
