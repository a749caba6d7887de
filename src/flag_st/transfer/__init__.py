"""Files from other machines: verified downloads, and the weights of published models."""
