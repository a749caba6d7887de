"""Scoring: from predictions and truth to tidy tables of scores."""
