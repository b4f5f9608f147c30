"""The pathology app: slides in the folder, QuPath as client."""
