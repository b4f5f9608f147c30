"""The patch queue: which rectangle of which slide is asked about next and why, and the process that looks at slides."""
