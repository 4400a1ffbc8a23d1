"""Serve a bundle over HTTP, ask it, and look for drift in what it logged."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import planish
from planish.commands import export
from planish.testing import write_shapes

data = write_shapes(Path("shapes"), per_class=100)
planish.train(data, model="resnet8x0.5", changes=["epochs=20"], out="model")
bundle = export("model", data, to="onnx", out="bundle")

command = f"-m planish.cli serve {bundle} --port 0 --log log --watch-rate 1000 --address-file address"
service = subprocess.Popen([sys.executable, *command.split()], stdout=subprocess.DEVNULL)
try:
    while not Path("address").exists():
        time.sleep(0.1)
    address = Path("address").read_text().strip()
    for file in sorted(data.rglob("*.png"))[::9]:
        request = urllib.request.Request(f"{address}/predict", file.read_bytes(), {"Content-Type": "image/png"})
        with urllib.request.urlopen(request) as response:
            print(file, json.load(response)["class"])
finally:
    service.terminate()
    service.wait()

# These images do not depend on one another, so each is compared; of a camera's stream give the time after which they are independent.
for model in planish.monitor("log", [bundle], correlation="0"):
    print(model.model, f"{model.images} images:", "drift" if model.drifted else "no drift")
