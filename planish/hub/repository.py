"""Pushing bundles to repositories of the Hugging Face Hub, and pulling them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from planish.errors import BundleError, HubError, RuntimeMissingError, first_line
from planish.export.bundle.folder import DESCRIPTION, Bundle, bundle_folder, changed_files, read_bundle
from planish.files.workspace import replace_folder
from planish.hub.address import HubAddress, is_hub_address

if TYPE_CHECKING:
    from planish.hub.card import CardSettings
    from planish.search.result import Result

_FOLDER, _CARD, _RESULT = "bundle", "README.md", "result.json"


def push(place: Path, address: HubAddress, card: CardSettings, *, public: bool = False) -> str:
    """Upload a bundle and its model card in one commit. Files of an earlier bundle that this one lacks are deleted.

    The card is made from the bundle, and from ``result.json`` beside it if that is the result of the same model.

    Args:
        place: folder of a bundle or a run.
        address: repository, created if there is none; a revision is an existing branch.
        card: what the owner adds to the card.
        public: whether a new repository is public.

    Returns:
        The address of the commit on the Hub's site.

    Raises:
        BundleError: there is no bundle, or it was changed since it was made.
        HubError: the Hub cannot be reached, or refuses it.
        RuntimeMissingError: huggingface_hub is not installed.
    """
    api, folder = _hub_api(), bundle_folder(place)
    bundle = read_bundle(folder)
    _require_unchanged(folder, bundle, "make the bundle again")
    from planish.hub.card import model_card  # not needed for pulling, on machines without the libraries of reports

    text = model_card(bundle, _result_of(folder, bundle), address, card)
    with _explained(address):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token

        if get_token() is None:
            raise HubError(
                "there is no token of the Hugging Face Hub",
                "writing needs one with the right to write",
                "run hf auth login, or set HF_TOKEN",
            )
        files = {f"{_FOLDER}/{file.relative_to(folder).as_posix()}": file for file in sorted(folder.rglob("*")) if file.is_file()}
        api.create_repo(address.repository, private=not public, exist_ok=True)
        present = api.list_repo_files(address.repository, revision=address.revision)
        stale = [name for name in present if name.startswith(f"{_FOLDER}/") and name not in files]
        operations = [
            *(CommitOperationDelete(name) for name in stale),
            CommitOperationAdd(_CARD, text.encode()),
            *(CommitOperationAdd(name, file) for name, file in files.items()),
        ]
        message = f"Bundle of {bundle.created}, by Planish"
        return str(api.create_commit(address.repository, operations, commit_message=message, revision=address.revision).commit_url)


def pull(address: HubAddress, folder: Path) -> Path:
    """Download a bundle and its model card to ``folder``, which appears only once it is complete and its hashes are right.

    Args:
        address: repository, and the revision if not the newest of its main branch.
        folder: it gets ``README.md`` and ``bundle/``; must not exist.

    Raises:
        BundleError: ``folder`` exists, or the repository holds no bundle, or a damaged one.
        HubError: the Hub cannot be reached, or there is no such repository.
        RuntimeMissingError: huggingface_hub is not installed.
    """
    if folder.exists():
        raise BundleError(f"{folder} exists already", "nothing is overwritten", "choose another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    cache = partial / ".cache"  # the Hub's library keeps a record of what it downloads in a folder of that name
    api = _hub_api()
    try:
        with _explained(address):
            api.snapshot_download(
                address.repository, revision=address.revision, local_dir=partial, cache_dir=cache, allow_patterns=[f"{_FOLDER}/*", _CARD]
            )
        shutil.rmtree(cache, ignore_errors=True)
        if not (partial / _FOLDER / DESCRIPTION).is_file():
            raise BundleError(f"{address} holds no bundle", "planish push writes one to the folder bundle/", "name another repository")
        _require_unchanged(partial / _FOLDER, read_bundle(partial / _FOLDER), f"ask the owner of {address} to push it again")
        replace_folder(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@contextmanager
def local_copy(place: str | Path) -> Iterator[Path]:
    """Yield a folder with the bundle of ``place``: a path itself, or a temporary copy of what an address on the Hub names."""
    if not is_hub_address(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix="planish-hub-") as temporary:
        yield pull(HubAddress.parse(str(place)), Path(temporary) / "repository")


def _hub_api() -> Any:
    """The client of the Hub, which finds its address in ``HF_ENDPOINT`` and the token in ``HF_TOKEN`` or where ``hf auth login`` put it."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise RuntimeMissingError(
            "the library huggingface_hub is not installed", "hf:// addresses need it", "run: pip install 'planish[hub]'"
        ) from error
    return HfApi(library_name="planish")


def _require_unchanged(folder: Path, bundle: Bundle, fix: str) -> None:
    if failures := changed_files(folder, bundle):
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise BundleError(f"{folder} is not as it was made: {failures[0]}{more}", "its hashes must be right", fix)


def _result_of(folder: Path, bundle: Bundle) -> Result | None:
    """The result of the run that a bundle lies in; None if there is none, or if the bundle was replaced since."""
    file = folder.parent / _RESULT
    if folder.name != _FOLDER or not file.is_file():
        return None
    from planish.search.result import Result

    result = Result.load(file)
    of_bundle, chosen = bundle.measurements, result.chosen.measurements
    same = chosen.keys() <= of_bundle.keys() and all(math.isclose(of_bundle[name].value, m.value) for name, m in chosen.items())
    return result if same else None


@contextmanager
def _explained(address: HubAddress) -> Iterator[None]:
    """Turn errors of the Hub's library into errors that name the cause and what to do; they never contain the token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(f"access to {address} must be granted by its owner", "", "ask for it on the repository's page") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{address.repository} has no revision {address.revision or 'main'}", "it is a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {address}, or it is private and the token may not read it",
            "",
            "check the name; run hf auth login, or set HF_TOKEN",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(address, error.response.status_code, error.server_message or first_line(error)) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(error.__cause__ or error) from error
    except (errors.HTTPError, ConnectionError, RuntimeError) as error:  # hf_xet, which transfers large files, raises RuntimeError
        raise _unreachable(error) from error
    except ValueError as error:  # names and metadata that are not valid
        raise HubError(f"the Hub refuses {address}: {' '.join(str(error).split())}", "", "change what it names") from error


def _refused(address: HubAddress, status: int, why: str) -> HubError:
    if status == 401:
        return HubError("the token of the Hugging Face Hub is not valid", "it may have expired", "run hf auth login, or set HF_TOKEN")
    if status == 403:
        return HubError(
            f"the token may not write to {address}", "it needs the right to write", "make one at huggingface.co/settings/tokens"
        )
    return HubError(f"the Hub answered {address} with status {status}: {why}", "", "try again later")


def _unreachable(error: BaseException) -> HubError:
    return HubError(
        f"the Hugging Face Hub cannot be reached: {first_line(error)}",
        "pushing and pulling need a network",
        "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
    )
