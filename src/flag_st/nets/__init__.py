"""Networks.

Those that denoise (``flag``, ``flag_paper``, ``flag_released`` and ``joint``) keep one contract:
noisy expression and σ in, clean expression out. For this they hold a preconditioner of
``flag_st.diffusion``; noise levels, losses and samplers stay there.
"""
