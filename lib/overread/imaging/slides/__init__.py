"""Whole-slide images: read, find the tissue, draw outlines, write maps that viewers open."""
