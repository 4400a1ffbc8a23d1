"""The same compression done with what a user would pick instead of Planish, measured in one interleaved run with Planish's own result.

The peers are Torch-Pruning with ONNX Runtime's static INT8 quantization, and Torch-Pruning with NNCF on OpenVINO; each also on the
unpruned original. Pruned networks recover as Planish's own candidates did, in as many seconds. The peers have a virtual environment of
their own, made once, from the folder that holds ``benchmarks``:

    python -m venv benchmarks/peers/.venv
    benchmarks/peers/.venv/bin/python -m pip install -r benchmarks/peers/requirements.txt -e .

Then, for a finished run of ``planish optimize``, from the folder in which that was started:

    benchmarks/peers/.venv/bin/python -m benchmarks.peers runs/NAME

It writes ``benchmarks/results/peers_NAME.md`` and ``peers_NAME.json``; the peers' files lie in ``runs/NAME/peers``.
"""
