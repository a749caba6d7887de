"""Image encoders: each is a class here and an entry of config/encoders.yaml."""
