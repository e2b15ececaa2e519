from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adcgan.networks.products import product


def matrix(rows: int, columns: int, kind: str) -> Tensor:
    """Return a matrix that lies in memory by rows, by columns, or with gaps."""
    wide = torch.randn(2 * rows, 3 * columns)
    if kind == "rows":
        return wide[:rows, :columns].contiguous()
    if kind == "columns":
        return wide[:rows, :columns].t().contiguous().t()
    return wide[::2, ::3]


@pytest.mark.parametrize("of_weight", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("of_x", ["rows", "columns", "gaps"])
def test_it_is_the_product_with_its_gradients(of_x: str, of_weight: str) -> None:
    x = matrix(5, 40, of_x).requires_grad_()
    weight = matrix(7, 40, of_weight).requires_grad_()
    out = torch.randn(5, 7)
    torch.testing.assert_close(product(x, weight), x @ weight.t())
    found = torch.autograd.grad((product(x, weight) * out).sum(), (x, weight))
    expected = torch.autograd.grad(((x @ weight.t()) * out).sum(), (x, weight))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(product(x, weight), x @ weight.t())


def test_a_bias_is_added_and_has_its_gradient() -> None:
    x, weight, bias = torch.randn(5, 40), torch.randn(7, 40), torch.randn(7, requires_grad=True)
    out = torch.randn(5, 7)
    found = product(x, weight, bias)
    torch.testing.assert_close(found, x @ weight.t() + bias)
    (gradient,) = torch.autograd.grad((found * out).sum(), bias)
    torch.testing.assert_close(gradient, out.sum(0))


def test_a_gradient_that_nobody_wants_is_not_computed() -> None:
    x, weight = torch.randn(5, 40), torch.randn(7, 40, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        product(x, weight).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 5 * 7 * 40)


def test_its_operations_are_counted() -> None:
    with FlopCounterMode(display=False) as counter:
        product(torch.randn(5, 40), torch.randn(7, 40))
    assert counter.get_total_flops() == 2 * 5 * 7 * 40


def test_autocast_and_float64_are_kept() -> None:
    x, weight = torch.randn(5, 40), torch.randn(7, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, weight).dtype == torch.bfloat16
    assert product(x.double(), weight.double()).dtype == torch.float64
