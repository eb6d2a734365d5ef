"""The methods by name: what configures each, and its class."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from .cflow import CFLOW
from .cls_cnf import CLSCNF
from .cls_config import ClsCnfConfig
from .config import MethodConfig, SanflowConfig
from .fastflow import FastFlow
from .flow_config import CflowConfig, FastflowConfig
from .foad_mfff import FOADMFFF
from .method import Method
from .options import AnyConfig
from .sanf_ad import SANFAD
from .sanflow import SANFlow
from .token_config import FoadMfffConfig, SanfAdConfig

_CLASSES: dict[type[MethodConfig], type[Method[Any]]] = {
    SanflowConfig: SANFlow,
    CflowConfig: CFLOW,
    FastflowConfig: FastFlow,
    SanfAdConfig: SANFAD,
    FoadMfffConfig: FOADMFFF,
    ClsCnfConfig: CLSCNF,
}


def build(config: AnyConfig, seed: int = 0) -> Method[Any]:
    """The untrained model of a configuration; `seed` fixes what is drawn when it is made."""
    return _CLASSES[type(config)](config, seed)


METHODS: dict[str, tuple[type[MethodConfig], type[Method[Any]]]] = {
    name: (config, made)
    for config, made in _CLASSES.items()
    for name in get_args(get_type_hints(config)["method"])
}
"""Configuration and class of every method."""
