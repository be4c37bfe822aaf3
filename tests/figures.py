"""Figures: how a test of the fault lanes says what it measured; conftest.py has the fixture."""

from __future__ import annotations

from collections.abc import Callable

Figures = Callable[..., None]
