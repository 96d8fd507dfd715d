"""Small convolutional networks for the digits of `digits.py`."""

from typing import Any


def conv(sizes: Any, *, width: int, depth: int, kernel: int) -> Any:
    """Return layers of `width` channels over pictures of 8 by 8; its tokens are the places before pooling."""
    from torch import nn

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = self.token_width = width
            channels = [1] + [width] * depth
            self.layers = nn.ModuleList(
                nn.Conv2d(a, b, kernel, stride=2 if i < 2 else 1, padding=kernel // 2)
                for i, (a, b) in enumerate(zip(channels, channels[1:], strict=False))
            )

        def forward(self, array: Any) -> Any:
            values = array.reshape(-1, 1, 8, 8)
            for layer in self.layers:
                values = layer(values).relu()
            places = values.flatten(2).transpose(1, 2)
            return places.mean(1), places

    return Conv()
