"""Does asking by doubt help at another hospital? UGA's experiment with its controls, by the code that serves clinicians."""
