"""The configuration of each method, and their union, which `method` tells apart."""

from __future__ import annotations

from typing import TypeAlias, get_args, get_type_hints

from .cls_config import ClsCnfConfig
from .config import SanflowConfig
from .flow_config import CflowConfig, FastflowConfig
from .token_config import FoadMfffConfig, SanfAdConfig

AnyConfig: TypeAlias = (
    SanflowConfig | CflowConfig | FastflowConfig | SanfAdConfig | FoadMfffConfig | ClsCnfConfig
)
"""Add a method's configuration here with `|`; the first one is the default."""

METHOD_NAMES: tuple[str, ...] = tuple(
    name for kind in get_args(AnyConfig) for name in get_args(get_type_hints(kind)["method"])
)
