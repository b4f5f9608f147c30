"""Experiments with their reports."""
