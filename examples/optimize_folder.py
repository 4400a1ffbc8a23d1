"""Make a network small and fast for a folder of images that has a folder per class."""

from pathlib import Path

import planish
from planish.testing import write_shapes

data = write_shapes(Path("shapes"), per_class=100)  # in your project: the path of your own folder
result = planish.optimize(data, model="resnet8x0.5", max_drop=5, budget="40s", out="runs/shapes")

print(result.verdict)
for name, measurement in result.chosen.measurements.items():
    print(name, measurement)
print("the bundle passes its checks:", planish.verify("runs/shapes", latency=False).ok)
