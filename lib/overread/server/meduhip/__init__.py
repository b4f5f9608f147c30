"""MedUHIP for clinicians: several plausible segmentations, and turns that lead to the wanted one."""
