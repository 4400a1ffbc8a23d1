"""Networks: ours, torchvision's and timm's by name, weights from files, and artifacts saved and rebuilt."""

from planish.models.storage import load_artifact, save_artifact
from planish.models.zoo import Created, build, create, names

__all__ = ["Created", "build", "create", "load_artifact", "names", "save_artifact"]
