"""Several people's labels: made one (`fusion`), and people that are simulated (`robot`)."""
