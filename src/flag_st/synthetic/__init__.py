"""Synthetic sections with a known truth.

Expression and picture are both made from the tissue and never one from the other, so that a model
can learn nothing from the picture but what it shows of the tissue.
"""

from flag_st.synthetic.expression import Truth, truth
from flag_st.synthetic.files import write_slide
from flag_st.synthetic.tissue import DOMAINS, Design, Section

__all__ = ["DOMAINS", "Design", "Section", "Truth", "truth", "write_slide"]
