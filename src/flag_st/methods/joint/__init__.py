"""Joint node-edge and node-only diffusion: the paper's road to FLAG (§3.2-3.3, App. B, D, E)."""

from flag_st.methods.joint.method import Joint

__all__ = ["Joint"]
