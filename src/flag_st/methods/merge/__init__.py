"""MERGE (CVPR 2025): graph attention over neighbours, clusters and their centres regresses expression."""

from flag_st.methods.merge.method import Merge

__all__ = ["Merge"]
