"""FLAG: spatial gene expression from H&E, and everything its paper is compared with.

Nothing heavy is imported here: Snakemake reads this package while it plans.
"""

__version__ = "0.1.0"
