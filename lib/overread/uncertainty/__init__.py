"""How unsure: measures (opinions to map), agreement and aggregations (to a score), calibration. Pure functions."""

from overread.uncertainty.aggregation import AGGREGATIONS, Aggregation
from overread.uncertainty.agreement import AgreementCounts
from overread.uncertainty.calibration import (
    Calibration,
    DoubtBands,
    band_map,
    choose_bands,
    fit_temperature,
    measure_bands,
)
from overread.uncertainty.measures import MEASURES, Measure, measure

__all__ = [
    "AGGREGATIONS",
    "MEASURES",
    "Aggregation",
    "AgreementCounts",
    "Calibration",
    "DoubtBands",
    "Measure",
    "band_map",
    "choose_bands",
    "fit_temperature",
    "measure",
    "measure_bands",
]
