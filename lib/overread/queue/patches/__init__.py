"""The queue of patches: which part of which slide is asked about next, and why."""
