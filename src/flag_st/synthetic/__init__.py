"""Synthetic sections with a known truth: tissue → expression, tissue → picture, never one from
the other, so that what a model reads in the picture can only be what the tissue says."""

from flag_st.synthetic.expression import Truth, truth
from flag_st.synthetic.files import write_slide
from flag_st.synthetic.tissue import DOMAINS, Design, Section

__all__ = ["DOMAINS", "Design", "Section", "Truth", "truth", "write_slide"]
