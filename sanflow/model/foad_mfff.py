"""FOAD-MFFF: the class token's flow, fed by multi-frequency fusion of patch tokens (methods 6).

The published files hold the fusion module, HiLo attention with one query, but their flow still has
SANF-AD's; that the module is the paper's is inferred from its abstract.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import HiLo
from .token_config import FoadMfffConfig
from .tokens import TokenMethod


class FOADMFFF(TokenMethod):
    """Multi-frequency fusion flow of a whole image; a group is a window of the patch map."""

    config: FoadMfffConfig

    def attention(self, width: int) -> nn.Module:
        """Of half a class token inside the windows and over their means."""
        return HiLo(width, self.config.heads)

    def groups(self, patches: Tensor) -> Tensor:
        """Patch tokens by window, (B, G, window^2, d), both in row-major order."""
        side = self.config.window
        batch, channels, height, width = (int(n) for n in patches.shape)
        rows, columns = height // side, width // side
        split = patches.reshape(batch, channels, rows, side, columns, side)
        return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, side**2, channels)
