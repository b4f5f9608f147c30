"""One file per served model: labels, measure, bands, network, in one frozen value."""
