"""DICOM series as volumes, and labels and maps of them as DICOM objects."""
