"""Overread: opinions of several networks on a study, doubt shown to the clinician, labels that retrain them."""

__version__ = "0.1.0"
