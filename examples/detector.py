"""Train a detector, export it as INT8, and judge the file on test images."""

import planish
from planish.commands import export

# 400 scenes with several garments each; in your project: a folder in COCO, Pascal VOC or YOLO layout.
DATA = "fashion-scenes-400"
planish.train(DATA, task="detection", model="resnet8", changes=["epochs=1"], out="detector")
bundle = export("detector", DATA, to="onnx", int8=True, out="bundle")

metrics = planish.evaluate(bundle, DATA)
for name in ("map", "map_50"):
    print(name, metrics[name])
