"""FLAG: graph-conditioned latent diffusion of expression, aligned to a gene foundation model."""

from flag_st.methods.flag.method import Flag

__all__ = ["Flag"]
