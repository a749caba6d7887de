"""Diffusion mathematics, free of any network."""
