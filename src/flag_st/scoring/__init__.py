"""Predictions and truth to tidy tables of scores."""
