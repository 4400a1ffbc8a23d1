"""Signed bundles: what the owner of the key signed opens, and nothing else does, however well its hashes fit."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
from cli_runner import invoke
from export_fakes import FakeTask
from service_log import service_log

from planish.artifact import Artifact
from planish.errors import BundleError, RuntimeMissingError, TrustError
from planish.export import ToTorchExport
from planish.export.bundle.folder import file_hashes, write_bundle
from planish.export.bundle.signature import check_signature, sign
from planish.export.bundle.verify import verify
from planish.export.runtimes.registry import load
from planish.files.trust import TRUST
from planish.serving.model import ServedModel
from planish.serving.models import Entry, Models
from planish.serving.serve import open_models
from planish.settings import DeploymentTarget

pytest.importorskip("cryptography")


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "key")


@pytest.fixture(scope="module")
def bundle(onnx_artifact: Artifact, task: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("b") / "bundle"
    return write_bundle(onnx_artifact, task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=3)


@pytest.fixture
def signed(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    sign(folder, keys[0])
    return folder


def reseal(folder: Path) -> None:
    """What a forger does: new hashes for what was changed."""
    described = json.loads((folder / "bundle.json").read_text())
    hashes = file_hashes(folder)
    described["sha256"] = {name: value for name, value in hashes.items() if not name.startswith("bundle.json")}
    (folder / "bundle.json").write_text(json.dumps(described))
    (folder / "bundle.json.sha256").write_text(hashlib.sha256((folder / "bundle.json").read_bytes()).hexdigest())


def change_description(folder: Path) -> None:
    described = json.loads((folder / "bundle.json").read_text())
    described["class_names"] = ["bar", "dot", "forged"]
    (folder / "bundle.json").write_text(json.dumps(described))


def change_model(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    model.doc_string = "other bytes, the same answers"
    onnx.save(model, folder / "model.onnx")


FORGERIES: dict[str, Callable[[Path], Any]] = {
    "the model": change_model,
    "the classes": change_description,
    "what is normal": lambda folder: (folder / "reference.json").write_text("{}"),
    "a file more": lambda folder: (folder / "golden" / "more.py").write_text("x"),
    "a file less": lambda folder: (folder / "README.md").unlink(),
    "another name": lambda folder: (folder / "README.md").rename(folder / "README"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_hashes_do_not_stop_a_forger_and_the_signature_does(signed: Path, keys: tuple[Path, Path], forgery: str) -> None:
    assert verify(signed, public_key=keys[1]).ok
    FORGERIES[forgery](signed)
    reseal(signed)
    plain = verify(signed)
    assert plain.ok, "hashes that fit are all that is asked for without a key"
    assert "not forgeries" in str(plain)
    report = verify(signed, public_key=keys[1])
    assert len(report.failures) == 1
    assert "is not as the owner" in report.failures[0]
    assert report.samples == 0, "and the model was not run"
    with pytest.raises(BundleError, match="is not as the owner"):
        open_models([signed], None, keys[1])


def test_reports_tell_whether_a_signature_was_checked(bundle: Path, signed: Path, keys: tuple[Path, Path]) -> None:
    found = {verify(bundle).signature, verify(signed).signature, verify(signed, public_key=keys[1]).signature}
    assert found == {"none", "unchecked", "verified"}
    assert "as the owner of the key signed it" in str(verify(signed, public_key=keys[1]))
    assert "planish sign" in str(verify(bundle))
    assert "planish sign" in (bundle / "README.md").read_text()


def test_another_key_no_signature_and_a_broken_one_are_refused(bundle: Path, signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    with pytest.raises(BundleError, match="somebody else"):
        check_signature(signed, other)
    with pytest.raises(BundleError, match="is not signed"):
        check_signature(bundle, keys[1])
    for broken in (b"", b"\xff\xfe", base64.b64encode(b"\0" * 64), base64.b64encode(b"short")):
        (signed / "bundle.sig").write_bytes(broken)
        with pytest.raises(BundleError):
            check_signature(signed, keys[1])


def test_links_out_of_the_bundle_are_refused_wherever_they_are(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Also where file and hash are right: what they lead to can be exchanged."""
    for name in ("README.md", "bundle.json", "golden"):
        outside = tmp_path / f"outside-{name}"
        (signed / name).rename(outside)
        (signed / name).symlink_to(outside)
        with pytest.raises(BundleError):
            check_signature(signed, keys[1])
        with pytest.raises(BundleError):
            ServedModel("m", "1", signed)
        (signed / name).unlink()
        outside.rename(signed / name)
    check_signature(signed, keys[1])
    os.mkfifo(signed / "pipe")
    with pytest.raises(BundleError, match="not a file"):
        check_signature(signed, keys[1])


def test_keys_that_cannot_be_used(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

    private, public = keys
    other = generate_private_key(SECP256R1())
    of_kind, of_kind_public, locked = tmp_path / "ec.pem", tmp_path / "ec.pub", tmp_path / "locked.pem"
    of_kind.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    of_kind_public.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    locked.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    for key in (of_kind, locked, public, tmp_path / "nothing", tmp_path):
        with pytest.raises(BundleError, match="openssl genpkey"):
            sign(signed, key)
    for key in (of_kind_public, private, tmp_path / "nothing"):
        with pytest.raises(BundleError, match="openssl pkey"):
            check_signature(signed, key)


def test_only_a_bundle_as_it_was_made_is_signed(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "README.md").write_text("changed")
    with pytest.raises(BundleError, match=r"README\.md was changed"):
        sign(signed, keys[0])


def test_without_the_library_one_reads_what_to_install(signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    for call in (lambda: sign(signed, keys[0]), lambda: verify(signed, public_key=keys[1]), lambda: open_models([signed], None, keys[1])):
        with pytest.raises(RuntimeMissingError, match=r"planish\[sign\]"):
            call()
    assert verify(signed).ok


def test_what_was_signed_may_run_code(network: Artifact, task: FakeTask, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: Any) -> None:
    exported: Any = ToTorchExport().apply(network, task)  # type: ignore[arg-type]
    folder = write_bundle(exported, task, tmp_path / "b", target=DeploymentTarget("torch"), measurements={}, golden=2)  # type: ignore[arg-type]
    sign(folder, keys[0])
    monkeypatch.setenv(TRUST, "")  # as on another machine
    with pytest.raises(TrustError):
        verify(folder)
    assert verify(folder, public_key=keys[1]).ok
    with pytest.raises(TrustError):
        load([shutil.copyfile(folder / "model.pt2", tmp_path / "x") and _changed(tmp_path / "x")], "torch")


def _changed(file: Path) -> Path:
    file.write_bytes(file.read_bytes() + b" ")
    return file


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_makes_the_keys_and_confirms_the_signature(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    for command in ("openssl genpkey -algorithm ed25519 -out key.pem", "openssl pkey -in key.pem -pubout -out key.pub"):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    done = invoke(["sign", str(folder), "--key", str(tmp_path / "key.pem")])
    assert done.exit_code == 0, done.output
    checked = invoke(["verify", str(folder), "--no-latency", "--json", "--public-key", str(tmp_path / "key.pub")])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.output)["signature"] == "verified"
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "bundle.sig"
    }
    (tmp_path / "message").write_text(json.dumps({"planish bundle": 1, "sha256": dict(sorted(hashes.items()))}))
    (tmp_path / "raw").write_bytes(base64.b64decode((folder / "bundle.sig").read_bytes()))
    command = "openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in message -sigfile raw"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    (folder / "README.md").write_text("forged")
    failed = invoke(["verify", str(folder), "--no-latency", "--public-key", str(tmp_path / "key.pub")])
    assert failed.exit_code == 1
    assert invoke(["sign", str(folder), "--key", str(tmp_path / "key.pub")]).exit_code == 2


def test_a_service_exchanges_its_model_for_signed_bundles_alone(bundle: Path, signed: Path, keys: tuple[Path, Path]) -> None:
    models = Models(open_models([signed], None, keys[1]), lambda model: Entry(model, MagicMock(), MagicMock()), {})
    before = next(iter(models)).model

    async def exchanged() -> None:
        watching = asyncio.create_task(models.reload(0.001, lambda model: None))
        await asyncio.sleep(0)
        (signed / "README.md").write_text("another bundle, its hashes right")
        reseal(signed)
        while not any("is not as the owner" in line for line in lines):
            await asyncio.sleep(0.001)
        assert next(iter(models)).model is before
        sign(signed, keys[0])
        while next(iter(models)).model is before:
            await asyncio.sleep(0.001)
        watching.cancel()

    with service_log() as lines:
        asyncio.run(exchanged())
