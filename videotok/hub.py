"""The Hugging Face Hub: files of a model that the user named by its hub id, and uploads."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videotok.errors import ModelError, first_line

HUB_SECONDS = 10.0
"""How long the hub may take to answer whether there is a model."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(model: str) -> Path:
    """Return a folder, or the folder that all files of a hub id are downloaded to.

    Raises:
        ModelError: neither.
    """
    return Path(model) if Path(model).is_dir() else download(check_hub_id(model), None)


def file_names(hub_id: str, revision: str | None = None) -> list[str]:
    """Return the names of the files of a hub id; without a network those that were downloaded before.

    Raises:
        ModelError: no such id, or no network and nothing downloaded before.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _hub_errors(f"download {hub_id}"):
        try:
            # one request with a limit; to list the files would be tried again for half a minute without a network
            info = HfApi().model_info(hub_id, revision=revision, timeout=HUB_SECONDS)
            return [file.rfilename for file in info.siblings or ()]
        except Exception as error:
            if not _is_network_error(error):
                raise
            try:
                folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
            except LocalEntryNotFoundError:
                folder = None
            if folder is None:
                raise
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def download(hub_id: str, patterns: list[str] | None, revision: str | None = None) -> Path:
    """Download the files of a hub id that match one of the patterns, all where None, and return their folder.

    Raises:
        ModelError: no such id, or no network and not downloaded before.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(f"download {hub_id}"):
        return Path(snapshot_download(hub_id, allow_patterns=patterns, revision=revision))


def check_hub_id(model: str | Path) -> str:
    """Return a hub id as text.

    Raises:
        ModelError: it has not the form owner/name.
    """
    if not HUB_ID.fullmatch(str(model)):
        raise ModelError(f"no model {model}: neither a folder nor a hub id such as owner/name")
    return str(model)


def upload(folder: Path, hub_id: str, *, private: bool | None, commit_message: str | None) -> str:
    """Upload a folder, make the repository where there is none, and return the address of the commit.

    Raises:
        ModelError: the upload was refused, or there is no network.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(f"upload to {hub_id}"):
        api.create_repo(hub_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message=commit_message))


@contextmanager
def _hub_errors(action: str) -> Iterator[None]:
    """Turn errors of the hub and of the network into a ModelError."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except Exception as error:
        if not isinstance(error, HFValidationError | LocalEntryNotFoundError) and not _is_network_error(error):
            raise
        raise ModelError(f"cannot {action}: {first_line(error)}; check the name and the network") from error


def _is_network_error(error: Exception) -> bool:
    """Return whether an error comes from the network or the hub: the errors of HTTP libraries need not be OSError."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
