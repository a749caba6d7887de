"""AdamW for training without a compiler."""

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, computed the same, that does not import the compiler.

    Torch wraps these methods so that its compiler leaves them alone. The wrappers import
    ``torch._dynamo`` at the first call, which takes as long as importing torch itself and would
    double the start of every training. A network that is compiled is compiled without its
    optimiser, so nothing needs the wrappers here.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
