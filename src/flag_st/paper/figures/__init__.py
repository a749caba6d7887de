"""Figures: what each one computes and draws."""
