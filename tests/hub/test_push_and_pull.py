"""Push, pull and verify through huggingface_hub itself, against a local server that answers as the Hub does."""

from __future__ import annotations

import builtins
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Ran, invoke
from fake_hub import TOKEN, FakeHub
from huggingface_hub import ModelCard, constants

from planish.commands import pull, push, verify
from planish.errors import BundleError, HubError
from planish.hub.address import HubAddress

ADDRESS = "hf://ada/shapes"


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def failed(ran: Ran, *words: str) -> None:
    assert ran.exit_code == 2, ran.output
    assert ["error: " in line for line in ran.stderr.splitlines() if not line.startswith("Fetching")].count(True) == 1
    assert ran.stderr.splitlines()[-1].startswith("error: "), "an error is one line, after the library's progress"
    assert "Traceback" not in ran.output
    assert TOKEN not in ran.output
    for word in words:
        assert word in ran.stderr


def test_what_was_pushed_is_pulled_and_verifies(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    pushed = invoke(["push", str(run), ADDRESS, "--license", "apache-2.0"])
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.strip() == f"{hub.address}/ada/shapes/commit/{hub.sha('ada/shapes')}"
    assert {name for name in hub.files("ada/shapes") if not name.startswith("bundle/")} == {".gitattributes", "README.md"}
    card = ModelCard(hub.files("ada/shapes")["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert "The chosen model is" in card.text, "the verdict of result.json"

    pulled = invoke(["pull", ADDRESS, str(tmp_path / "here")])
    assert pulled.exit_code == 0, pulled.output
    assert content(tmp_path / "here" / "bundle") == content(run / "bundle")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["README.md", "bundle"]
    assert not list(tmp_path.glob("*.partial"))

    for place in (str(tmp_path / "here"), ADDRESS):
        verified = invoke(["verify", place, "--no-latency"])
        assert verified.exit_code == 0, verified.output
        assert f"{place}" in verified.stdout.splitlines()[0]
        assert "3 golden samples give the known outputs" in verified.stdout
    for ran in (pushed, pulled, verified):
        assert TOKEN not in ran.output
    assert not any(TOKEN.encode() in data for data in content(tmp_path).values()), "the token is stored nowhere"
    assert f"Bearer {TOKEN}" in hub.sent


def test_a_new_repository_is_private_unless_public_is_asked_for(run: Path, hub: FakeHub) -> None:
    push(run, "hf://ada/closed")
    push(run, "hf://ada/open", public=True)
    assert hub.private == {"ada/closed": True, "ada/open": False}


def test_a_second_push_deletes_files_that_the_new_bundle_lacks(run: Path, hub: FakeHub) -> None:
    push(run, ADDRESS)
    hub.commit("ada/shapes", hub.files("ada/shapes") | {"bundle/golden/old.png": b"1", "notes.md": b"2"})
    push(run / "bundle", ADDRESS)
    files = hub.files("ada/shapes")
    assert {name.removeprefix("bundle/"): data for name, data in files.items() if name.startswith("bundle/")} == content(run / "bundle")
    assert files["notes.md"] == b"2", "only what lies in bundle/ is replaced"


def test_an_older_commit_is_pulled_by_its_hash(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    push(run, ADDRESS)
    first = hub.sha("ada/shapes")
    hub.commit("ada/shapes", {name: data for name, data in hub.files("ada/shapes").items() if not name.startswith("bundle/")})
    with pytest.raises(BundleError, match="holds no bundle"):
        pull(ADDRESS, tmp_path / "newest")
    pull(f"{ADDRESS}@{first}", tmp_path / "older")
    assert verify(tmp_path / "older", latency=False).ok


def test_a_bundle_that_was_changed_on_the_hub_is_refused(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    push(run, ADDRESS)
    files = hub.files("ada/shapes")
    model = json.loads(files["bundle/bundle.json"])["files"][0]
    hub.commit("ada/shapes", files | {f"bundle/{model}": b"something else"})
    failed(invoke(["pull", ADDRESS, str(tmp_path / "here")]), f"{model} was changed", "push it again")
    assert not (tmp_path / "here").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_changed_bundle_is_not_pushed(run: Path, hub: FakeHub) -> None:
    (run / "bundle" / "README.md").write_text("by hand")
    failed(invoke(["push", str(run), ADDRESS]), "README.md was changed")
    assert not hub.commits


def test_result_json_of_another_bundle_is_not_used(run: Path, hub: FakeHub) -> None:
    result = json.loads((run / "result.json").read_text())
    result["chosen"]["measurements"]["latency_ms"]["value"] *= 2
    result["verdict"] = "Of another model."
    (run / "result.json").write_text(json.dumps(result))
    push(run, ADDRESS)
    assert "Of another model" not in hub.files("ada/shapes")["README.md"].decode()


def test_no_token(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    failed(invoke(["push", str(run), ADDRESS]), "no token", "hf auth login", "HF_TOKEN")


def test_a_token_that_is_not_valid(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AnotherSecret")
    ran = invoke(["push", str(run), ADDRESS])
    failed(ran, "token", "not valid")
    assert "hf_AnotherSecret" not in ran.output


def test_a_token_without_the_right_to_write(run: Path, hub: FakeHub) -> None:
    hub.read_only = True
    failed(invoke(["push", str(run), ADDRESS]), "may not write to hf://ada/shapes")


def test_a_licence_that_the_hub_refuses(run: Path, hub: FakeHub) -> None:
    failed(invoke(["push", str(run), ADDRESS, "--license", "mine"]), "refuses", '"license" must be one of')


def test_no_such_repository_and_no_such_revision(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    failed(invoke(["pull", "hf://ada/nothing", str(tmp_path / "a")]), "there is no repository hf://ada/nothing")
    failed(invoke(["verify", "hf://ada/nothing"]), "there is no repository")
    push(run, ADDRESS)
    failed(invoke(["pull", f"{ADDRESS}@v9", str(tmp_path / "b")]), "has no revision v9")


def test_no_network(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    failed(invoke(["push", str(run), ADDRESS]), "cannot be reached")
    failed(invoke(["pull", ADDRESS, str(tmp_path / "here")]), "cannot be reached")


def test_the_library_is_not_installed(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    failed(invoke(["push", str(run), ADDRESS]), "pip install 'planish[hub]'")
    failed(invoke(["pull", ADDRESS, str(tmp_path / "here")]), "pip install 'planish[hub]'")


def test_an_existing_folder_is_not_overwritten(hub: FakeHub, tmp_path: Path) -> None:
    failed(invoke(["pull", ADDRESS, str(tmp_path)]), "exists already")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ada/shapes", "hf://ada/shapes"),
        ("https://huggingface.co/ada/shapes", "hf://ada/shapes"),
        ("hf://shapes", "hf://user/name"),
        ("hf://ada/../shapes", "hf://user/name"),
        ("hf://datasets/ada/shapes", "hf://user/name"),
    ],
)
def test_what_is_not_an_address(given: str, meant: str) -> None:
    with pytest.raises(HubError, match=f"write {meant}"):
        HubAddress.parse(given)


def test_a_signed_bundle_keeps_its_signature(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from export.test_signature import write_keys

    from planish.commands import sign

    private, public = write_keys(tmp_path, "key")
    sign(run, key=private)
    push(run, ADDRESS)
    shutil.rmtree(run)
    assert verify(ADDRESS, latency=False, public_key=public).signature == "verified"
