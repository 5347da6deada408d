"""The Cosmos tokenisers (CV and DV, 0.1 and Tokenize1/1.0) as published, exact to the official code.

:func:`from_official` makes a ready network of an official state dict; the plugins are in
:mod:`avtbench.methods.tokenizers.cosmos.tokenizer`.
"""

from avtbench.methods.tokenizers.cosmos.fsq import FSQ
from avtbench.methods.tokenizers.cosmos.model import CosmosModel, CosmosSpec, from_official, looks_like
from avtbench.methods.tokenizers.cosmos.network import CosmosConfig, CosmosDecoder, CosmosEncoder

__all__ = [
    "FSQ",
    "CosmosConfig",
    "CosmosDecoder",
    "CosmosEncoder",
    "CosmosModel",
    "CosmosSpec",
    "from_official",
    "looks_like",
]
