"""Prediction methods: one file and one entry of config/methods.yaml each."""
