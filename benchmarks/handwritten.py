"""What people write today: autograd Functions with a loop of forward differences."""

import numpy as np
import torch
from torch import Tensor

from suture.demo.experiment import f_str


class Reusing(torch.autograd.Function):
    """`f_str` by forward differences at float64 points, with f(x) of the forward pass reused."""

    @staticmethod
    def forward(ctx, x, w):
        y = f_str(x.double(), w.double())
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx, grad_output):
        x, w, y = ctx.saved_tensors
        x, w = x.double(), w.double()
        gradient = torch.empty_like(w)
        for j in range(w.numel()):
            # The function returns float32, so that the step is that of float32.
            step = 3.45e-4 * max(abs(w[j].item()), 1.0)
            moved = w.clone()
            moved[j] += step
            slope = (f_str(x, moved) - y) / (moved[j] - w[j])
            gradient[j] = (grad_output * slope).sum()
        return None, gradient.float()


class Recomputing(torch.autograd.Function):
    """The blog's loop: float32, and f(x) is computed again for every weight."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return f_str(x, w)

    @staticmethod
    def backward(ctx, grad_output):
        x, w = ctx.saved_tensors
        gradient = torch.zeros_like(w)
        for j in range(w.numel()):
            moved = w.detach().clone()
            moved[j] += 1e-3
            slope = (f_str(x, moved) - f_str(x, w)) / 1e-3
            gradient[j] = (grad_output * slope).sum()
        return None, gradient


def looping(fn):
    """Return an autograd Function for any `fn` of one float64 NumPy vector."""

    class Looping(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            point = x.detach().double().numpy()
            y = fn(point.copy())
            ctx.point, ctx.y = point, y
            return torch.from_numpy(np.array(y)).to(x.dtype)

        @staticmethod
        def backward(ctx, grad_output: Tensor) -> Tensor:
            point, y = ctx.point, ctx.y
            cotangent = grad_output.double().numpy()
            gradient = np.empty_like(point)
            for j in range(point.size):
                step = 1.5e-8 * max(abs(point[j]), 1.0)
                moved = point.copy()
                moved[j] += step
                slope = (fn(moved) - y) / (moved[j] - point[j])
                gradient[j] = np.sum(cotangent * slope)
            return torch.from_numpy(gradient).to(grad_output.dtype)

    return Looping.apply
