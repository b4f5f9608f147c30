"""Who the members are, how they learn, and how they speak: our networks, nnU-Net folds, MONAI bundles."""
