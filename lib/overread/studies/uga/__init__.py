"""Does asking by doubt help at another hospital? UGA's experiment and its controls, by the code in service."""
