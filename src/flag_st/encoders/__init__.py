"""Image encoders: one file and one entry of config/encoders.yaml each."""
