"""How unsure: measures (opinions to map), aggregations (map to score), calibration. Pure functions."""
