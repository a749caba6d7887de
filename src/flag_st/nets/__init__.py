"""Networks, free of any diffusion mathematics."""
