"""The classic levers of accuracy, each a technique that changes modules of any network and keeps the weights that still fit."""

from planish.models.levers.activation import Activation
from planish.models.levers.depth import Depth
from planish.models.levers.initialization import Initialization
from planish.models.levers.kernels import Kernels
from planish.models.levers.norm import Norm
from planish.models.levers.pooling import Downsampling, Pooling
from planish.models.levers.regularization import DropConnect, Dropout, StochasticDepth
from planish.models.levers.squeeze_excitation import SqueezeExcitation

__all__ = [
    "Activation",
    "Depth",
    "Downsampling",
    "DropConnect",
    "Dropout",
    "Initialization",
    "Kernels",
    "Norm",
    "Pooling",
    "SqueezeExcitation",
    "StochasticDepth",
]
