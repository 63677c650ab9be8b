"""Fetches a model from the Hugging Face hub onto this machine: safetensors and JSON, nothing that can run.

No service ever fetches what a user names; this is the user's own machine and connection.
"""

import importlib
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CommandFailed
from shared.artefacts.model_files import CONFIG, INDEX, PREPROCESSOR, WEIGHTS

PATTERNS: Final = (CONFIG, PREPROCESSOR, WEIGHTS, INDEX, "model-?????-of-?????.safetensors")


def fetch(name: str) -> Path:
    """Return the folder of a model of the hub, in the cache of `huggingface_hub`.

    Args:
        name: `ORG/NAME`, or `ORG/NAME@REVISION`.

    Raises:
        CommandFailed: the extra `hub` is not installed, there is no such model, or nothing answers.
    """
    repository, _, revision = name.partition("@")
    try:
        library: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise CommandFailed(
            "extra-missing",
            f"huggingface_hub cannot be imported here: {error}",
            "Install Imago with the extra hub: pip install imago[hub]. Or fetch the model by other means and "
            "give --folder.",
        ) from error
    try:
        return Path(
            library.snapshot_download(repository, revision=revision or None, allow_patterns=list(PATTERNS))
        )
    except Exception as error:
        # The library lets errors of its own, of its HTTP client and of the system out; each says what it is.
        raise CommandFailed(
            "hub-not-fetched",
            f"{name} could not be fetched from the hub: {type(error).__name__}: {error}",
            "Is the name right, the model public (or HF_TOKEN set), and the network there? --folder takes a "
            "folder that was fetched before.",
        ) from error
