"""Intervals of a prediction that hold on patients who were not seen, and how far that is guaranteed."""
