"""Slide images of any format: the pixel size settled, tissue found, spots laid, patches cut."""
