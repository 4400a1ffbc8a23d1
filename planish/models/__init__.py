"""Networks of this package, torchvision and timm by name, loading of weights, and saving and loading of artifacts."""

from planish.models.storage import load_artifact, save_artifact
from planish.models.zoo import Created, build, create, names

__all__ = ["Created", "build", "create", "load_artifact", "names", "save_artifact"]
