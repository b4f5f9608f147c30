"""Does asking by doubt help? The study of UGA (arXiv:2404.07208) with its controls, and its report."""
