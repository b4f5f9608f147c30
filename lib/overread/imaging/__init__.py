"""Volumes, images and data folders: read, check, resample, cut into windows, put together again."""
