"""Against raters: overlap, calibration, and whether doubt finds the errors."""
