from __future__ import annotations

import pytest
import torch
from torch import nn

from SparseUNet3DLib.muon import Muon, orthogonal_factors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonalise(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    factors = orthogonal_factors(matrices)
    return [f @ m if m.shape[0] <= m.shape[1] else m @ f for f, m in zip(factors, matrices, strict=True)]


@pytest.mark.parametrize("shape", [(8, 8), (16, 432), (128, 3456), (40, 6), (1, 27)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_all_directions_become_about_equally_long(shape: tuple[int, int], size: float):
    matrix = torch.randn(shape, generator=generator()) * size
    values = torch.linalg.svdvals(orthogonalise([matrix])[0])
    # The iteration overshoots a little by design; a square matrix has directions that are hardly there at all.
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_directions_are_kept():
    """A matrix of given singular vectors keeps them, in order and sign."""
    u, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator(1)))
    v, _ = torch.linalg.qr(torch.randn(50, 12, generator=generator(2)))
    (found,) = orthogonalise([u @ torch.diag(torch.linspace(0.2, 1, 12)) @ v.T])
    along = u.T @ found @ v
    assert (along.diagonal() > 0.6).all() and (along.diagonal() < 1.3).all()
    assert (along - torch.diag(along.diagonal())).abs().max() < 1e-4


def test_matrices_that_are_made_orthogonal_together_are_so_each_by_itself():
    shapes = [(8, 54), (40, 8), (8, 8), (16, 27)]
    matrices = [torch.randn(shape, generator=generator(n)) for n, shape in enumerate(shapes)]
    for found, matrix in zip(orthogonalise(matrices), matrices, strict=True):
        torch.testing.assert_close(found, orthogonalise([matrix])[0], rtol=1e-4, atol=1e-5)


def test_a_gradient_of_zero_changes_nothing_but_by_decay():
    weight = nn.Parameter(torch.ones(4, 2, 3, 3, 3))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.95))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_step_does_not_depend_on_the_layout_in_memory(layout: torch.memory_format):
    values, gradient = torch.randn(2, 6, 5, 3, 3, 3, generator=generator())
    steps = []
    for kind in (torch.contiguous_format, layout):
        weight = nn.Parameter(values.clone(memory_format=kind))
        weight.grad = gradient.clone(memory_format=kind)
        Muon([weight], lr=0.02).step()
        steps.append(weight.detach())
    torch.testing.assert_close(*steps)
    length = (steps[0] - values).square().mean().sqrt()
    assert 0.5 * 0.2 < length / 0.02 < 1.5 * 0.2  # about as long as a step of AdamW


def test_the_gradient_may_have_another_layout_than_the_weights():
    values, gradient = torch.randn(2, 6, 5, 3, 3, 3, generator=generator())
    steps = []
    for kind in (torch.contiguous_format, torch.channels_last_3d):
        weight = nn.Parameter(values.clone(memory_format=torch.channels_last_3d))
        weight.grad = gradient.clone(memory_format=kind)
        Muon([weight], lr=0.02).step()
        steps.append(weight.detach())
    torch.testing.assert_close(*steps)


def test_what_has_no_gradient_stays():
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert (weight == 1).all()


def test_it_learns_an_ill_conditioned_task_faster_than_adamw():
    """Least squares with inputs of very unequal strength: the weak ones count alike."""
    turn, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator(2)))
    inputs = torch.randn(256, 24, generator=generator()) * torch.logspace(0, -2, 24) @ turn
    truth = torch.randn(24, 8, generator=generator(1))

    def loss_after_training(make) -> float:
        weight = nn.Parameter(torch.zeros(8, 24))
        optimizer = make([weight])
        for step in range(150):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / 150)
            loss = (inputs @ weight.T - inputs @ truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float((weight.detach().T - truth).square().mean())

    muon = loss_after_training(lambda p: Muon(p, lr=0.1))
    adam = loss_after_training(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0))
    assert muon < adam


@pytest.mark.parametrize("shape", [(128, 16, 3, 3, 3), (8, 4, 3, 3, 3), (70, 2, 1, 1, 1)])
def test_a_step_in_bfloat16_is_the_step_but_for_rounding(shape: tuple[int, ...]):
    values, gradient = torch.randn(2, *shape, generator=generator())
    steps = []
    for precision in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(values.clone())
        weight.grad = gradient.clone()
        Muon([weight], lr=0.02, weight_decay=0.1, precision=precision).step()
        assert weight.dtype == torch.float32
        steps.append(weight.detach() - values)
    assert (steps[1] - steps[0]).norm() < 0.01 * steps[0].norm()
