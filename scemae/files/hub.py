"""A model on the hub of Hugging Face, `hf-hub:OWNER/NAME`: to a folder of this machine, and back.

timm names such models in the same way. Nothing is asked of the hub unless a user names it.
"""

import re
from pathlib import Path

from scemae.errors import CheckpointError

SIGN = "hf-hub:"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")
FILES = ["config.json", "*.safetensors"]  # of an export; nothing else is downloaded


def is_on_hub(location: Path | str) -> bool:
    """Whether a location is `hf-hub:OWNER/NAME`."""
    return str(location).startswith(SIGN)


def download(location: Path) -> Path:
    """The folder with the files of an export on the hub; what is there already is not fetched
    again.

    Raises CheckpointError where the name is no name, the hub has no such model or cannot be asked.
    """
    name = str(location).removeprefix(SIGN)
    if not NAME.fullmatch(name):
        raise CheckpointError(f"{location}: found no OWNER/NAME; give hf-hub:OWNER/NAME")
    from huggingface_hub import snapshot_download  # timm has installed it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (OSError, HFValidationError, LocalEntryNotFoundError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{location}: cannot be fetched ({why}); give the name of an export on the hub, or a "
            "folder of this machine"
        ) from error


def upload(folder: Path, name: str, *, private: bool = False) -> str:
    """Put the files of an export on the hub as OWNER/NAME, by the login of `hf auth login`.

    Returns the address. Raises CheckpointError where the name is no name, or the hub refuses.
    """
    if not NAME.fullmatch(name):
        raise CheckpointError(f"{name}: found no OWNER/NAME; give OWNER/NAME, such as me/faces")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        HfApi().create_repo(name, private=private, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder))
    except (OSError, HFValidationError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{name}: cannot be written ({why}); log in with `hf auth login`, or copy what "
            "save_pretrained writes"
        ) from error
