"""Train a detector, export it as INT8, and judge the file on test images."""

import planish
from planish.commands import export

DATA = "fashion-scenes-400"  # 400 scenes to train on; in your project: a folder in COCO, Pascal VOC or YOLO layout
# four epochs of so few scenes only show the steps: a useful detector takes pretrained weights and many more of both
planish.train(DATA, task="detection", model="resnet8", image_size=64, changes=["epochs=4"], out="detector")
bundle = export("detector", DATA, to="onnx", int8=True, out="bundle")

metrics = planish.evaluate(bundle, DATA)
for name in ("map", "map_50"):
    print(name, metrics[name])
