"""The configuration of each method, and their union, which `method` tells apart."""

from __future__ import annotations

from typing import TypeAlias

from .config import ModelConfig
from .token_config import FoadMfffConfig, SanfAdConfig

AnyConfig: TypeAlias = ModelConfig | SanfAdConfig | FoadMfffConfig
"""Add a method's configuration here with `|`; the first one is the default."""
