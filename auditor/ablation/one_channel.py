"""The response of a convolution or a linear layer to a change in one of its input channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class OneChannel:
    """Adds to a layer's intact output what a change of one input channel does to it.

    The layer is linear, so the change of its output is the layer without bias, applied to the change of its input; with
    one channel changed that is a sum over the kernel's positions alone, not over all channels.

    Parameters
    ----------
    module : nn.Conv2d or nn.Linear
        A convolution without groups, padded with zeros.
    """

    def __init__(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        self._module = module
        weight = module.weight.detach()
        if isinstance(module, nn.Conv2d):
            # (C, kernel positions, outputs): one contiguous matrix per input channel.
            self._weight = weight.permute(1, 2, 3, 0).reshape(weight.shape[1], -1, weight.shape[0]).contiguous()
        else:
            self._weight = weight.t().contiguous()[:, None, :]

    def __call__(self, intact: Tensor, change: Tensor, units: Tensor) -> Tensor:
        """Return the layer's output after the change.

        Parameters
        ----------
        intact : Tensor, shape (P, O, H', W') or (P, ..., O)
            Output of the layer without the change; rows may share memory. It is not changed.
        change : Tensor, shape (P, H, W) or (P, ...)
            Change of one input channel, by row.
        units : Tensor of int, shape (P,)
            Which channel.
        """
        weight = self._weight[units]
        conv = self._module
        if not isinstance(conv, nn.Conv2d):
            if intact.ndim == 2:
                return torch.addcmul(intact, change[:, None], weight[:, 0])
            flat = torch.addcmul(intact.flatten(1, -2), change.flatten(1)[..., None], weight)
            return flat.view(intact.shape)
        rows, _, height, width = intact.shape
        base = intact.permute(0, 2, 3, 1).flatten(1, 2)
        if conv.kernel_size == (1, 1) and conv.padding == (0, 0):
            there = change[:, :: conv.stride[0], :: conv.stride[1]].reshape(rows, -1, 1)
            found = torch.addcmul(base, there, weight)
        else:
            columns = functional.unfold(
                change[:, None],
                conv.kernel_size,
                dilation=conv.dilation,
                padding=conv.padding,  # type: ignore[arg-type]
                stride=conv.stride,
            )
            found = torch.baddbmm(base, columns.transpose(1, 2), weight)
        output = found.view(rows, height, width, -1).permute(0, 3, 1, 2)
        # What follows may rely on the layout that the layer itself gives its output.
        return output if intact[:1].is_contiguous(memory_format=torch.channels_last) else output.contiguous()
