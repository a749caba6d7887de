"""HINGE: a frozen single-cell model that histology turns into a generator of expression."""

from flag_st.methods.hinge.method import Hinge

__all__ = ["Hinge"]
