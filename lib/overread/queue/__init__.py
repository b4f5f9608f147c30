"""Which case comes next, and why: scores, strategies, leases."""
