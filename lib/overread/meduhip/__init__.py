"""MedUHIP (Zhu & Wu, arXiv:2408.01620): segmentations drawn from a mixture that moves to a clinician's preference."""
