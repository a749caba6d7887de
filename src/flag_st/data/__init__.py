"""Slides, panels, splits and tiles: what goes into a method."""
