"""Architecture modifications: techniques that replace modules in any network and keep the weights that still fit."""

from planish.models.surgery.activation import Activation
from planish.models.surgery.depth import Depth
from planish.models.surgery.initialization import Initialization
from planish.models.surgery.kernels import Kernels
from planish.models.surgery.norm import Norm
from planish.models.surgery.pooling import Downsampling, Pooling
from planish.models.surgery.regularization import DropConnect, Dropout, StochasticDepth
from planish.models.surgery.squeeze_excitation import SqueezeExcitation
from planish.models.surgery.whitening import Whitening

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
    "Whitening",
]
