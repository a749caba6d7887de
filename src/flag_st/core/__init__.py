"""Plumbing that every stage rests on and that changes no number."""
