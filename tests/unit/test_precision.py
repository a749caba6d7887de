"""Settings of torch are changed inside a block alone, and on a GPU alone."""

import os

import pytest
import torch

from flag_st.methods.precision import precise, repeatable


def state() -> tuple:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cuda.matmul.allow_tf32,
    )


def test_sums_keep_their_order_inside_the_block_alone():
    before = state()
    with pytest.raises(ZeroDivisionError), repeatable("cuda:0", wanted=True):
        assert state()[:3] == (True, True, False)
        raise ZeroDivisionError
    assert state() == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda", False)])
def test_nothing_changes_on_a_cpu_or_unasked(device, wanted):
    before = state()
    with repeatable(device, wanted):
        assert state() == before


def test_precision_is_that_of_the_block_alone():
    before = state()
    with precise("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert state() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gathers_and_attention_add_up_alike_on_a_gpu():
    def gradient():
        torch.manual_seed(0)
        x = torch.randn(2000, 64, device="cuda", requires_grad=True)
        near = torch.randint(0, 50, (40_000,), device="cuda")
        picked = x.index_select(0, near).view(1, 8, 5000, 64)
        attended = torch.nn.functional.scaled_dot_product_attention(picked, picked, picked)
        attended.square().sum().backward()
        return x.grad

    with repeatable("cuda", wanted=True):
        assert torch.equal(gradient(), gradient())
