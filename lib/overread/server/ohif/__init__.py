"""OHIF, the viewer in the browser: its pages, and what its MONAI Label panel is told."""
