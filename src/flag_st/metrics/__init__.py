"""Metrics: one file and one entry of config/metrics.yaml each."""
