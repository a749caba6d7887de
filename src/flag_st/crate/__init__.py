"""A finished run as one RO-Crate, and what differs between two runs."""
