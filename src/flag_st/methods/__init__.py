"""Prediction methods: each is a file or a folder here and an entry of config/methods.yaml."""
