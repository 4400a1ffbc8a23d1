"""What is decoded at a time is bounded in bytes, and nobody waits for ever."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from PIL import Image

from planish.commands.deployment.serve import serve
from planish.data.preprocessing import decode_with_size
from planish.errors import DataError
from planish.serving.limits import BODIES, Limits, MemoryBudget
from planish.serving.serve import open_models


def test_no_more_is_in_use_than_there_is_and_each_gets_its_turn() -> None:
    budget, lock, used, most, order = MemoryBudget(100), threading.Lock(), 0, 0, list[int]()

    def work(number: int) -> None:
        nonlocal used, most
        size = 90 if number == 0 else 1 + 7 * number % 60
        with budget.reservation() as reserve:
            reserve(size)
            with lock:
                used += size
                most = max(most, used)
                order.append(number)
            time.sleep(0.001)
            with lock:
                used -= size

    with ThreadPoolExecutor(64) as pool:
        with budget.reservation() as reserve:
            reserve(50)
            work_done = [pool.submit(work, 0)]  # waits, and those that come later wait behind it
            while not budget._waiting:
                time.sleep(0.001)
            work_done += [pool.submit(work, number) for number in range(1, 60)]
            while len(budget._waiting) < 60:
                time.sleep(0.001)
            assert not order, "a small one does not overtake, or the large one might wait for ever"
        for done in work_done:
            done.result(30)
    assert (order[0], most <= 100, len(order)) == (0, True, 60)
    assert budget._used == 0


def test_what_fails_gives_back_and_what_never_fits_is_refused() -> None:
    budget = MemoryBudget(100)

    def fail() -> None:
        with budget.reservation() as reserve:
            reserve(80)
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fail()
    with pytest.raises(DataError, match="at most 0 MB"), budget.reservation() as reserve:
        reserve(101)


def test_an_image_is_refused_before_its_pixels_are_decoded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = open_models([bundle])
    file = io.BytesIO()
    Image.new("L", (2000, 1000)).save(file, "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("pixels are decoded"))
    with pytest.raises(DataError, match="needs 20 MB"):
        model.pixels(file.getvalue(), 10**9, MemoryBudget(10_000_000))


def test_the_defaults_agree_with_each_other_and_with_the_manifest() -> None:
    limits = Limits()
    parameters = (serve.__kwdefaults__ or {}).values()
    assert {limits.max_pixels, limits.max_bytes, limits.max_decoding_bytes} <= {value for value in parameters if isinstance(value, int)}
    for kind in ("PNG", "JPEG"):
        file, reserved = io.BytesIO(), list[int]()
        Image.new("RGB", (1000, 1000)).save(file, kind)
        decode_with_size(file.getvalue(), 3, 64, reserve=reserved.append)
        assert reserved[0] * limits.max_pixels / 1e6 <= limits.max_decoding_bytes
    manifest = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kserve.yaml").read_text())
    memory = manifest["spec"]["predictor"]["containers"][0]["resources"]["limits"]["memory"]
    service_alone = 200e6
    assert memory == "1Gi"
    copies = BODIES * limits.max_bytes  # of what is in the bodies: files in forms and in base64
    assert service_alone + limits.max_decoding_bytes + BODIES * limits.max_bytes + copies < 0.6 * 2**30
