"""Where MLflow lives: tracking addresses made absolute, and every secret taken out of what is shown or stored."""

import os
import re
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from emulate.errors import InputError

_PASSWORD = re.compile(r"://[^/\s@'\"]*@")
_TOKEN = re.compile(r"([?&;](?:access_?|api_?)?(?:token|password|passwd|pwd|secret|key|signature)=)[^&\s'\"#;]+", re.I)
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
LOOPBACK = "http://127.0.0.1:5000"  # where `emulate ui` serves the pages of a database, when not told otherwise
_PATIENCE = 3.0  # s, for a server to take a connection


def redact(text: str) -> str:
    """The text without the secrets of its addresses: `user:password@` and `token=...` become `***`.

    >>> redact("https://ada:lovelace@lab.org/?token=abc&page=2")
    'https://***@lab.org/?token=***&page=2'
    """
    for value in (os.environ.get(name, "") for name in _SECRET_VARIABLES):
        text = text.replace(value, "***") if len(value) > 3 else text  # shorter ones are part of innocent words
    return _TOKEN.sub(r"\1***", _PASSWORD.sub("://***@", text))


def resolve(uri: str = "") -> str:
    """The full tracking address: `uri`, else $MLFLOW_TRACKING_URI, else the database `mlflow.db` of this folder.

    Relative database paths become absolute, so that the address still holds when the folder changes.
    Raises InputError for a folder of files, which MLflow gave up.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        path = uri.removeprefix("sqlite://").removeprefix("/")
        if path.split("?")[0] in ("", ":memory:"):
            raise InputError(f"tracking.uri must name a database file. Got {uri!r}; write sqlite:///mlflow.db.")
        return f"sqlite:///{Path(path).absolute()}"
    if parts.scheme in ("", "file") and uri not in ("databricks", "databricks-uc"):
        raise InputError(f"tracking.uri must be a database or a server, for MLflow gave up its folders of files. "
                         f"Got {redact(uri)!r}; write sqlite:///mlflow.db, or https://... of a server.")  # fmt: skip
    return uri


def database(address: str) -> Path | None:
    """The file of a local database, None for any other address."""
    return Path(address.removeprefix("sqlite:///").split("?")[0]) if address.startswith("sqlite:///") else None


def page(site: str, *steps: str, view: str = "") -> str:
    """The address of one of MLflow's classic pages, which opens on pages for language models when not told otherwise.

    `view` is the key of a saved view of the table of runs.

    >>> page("http://127.0.0.1:5000", "experiments", "1", "runs")
    'http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning'
    """
    shown = f"&viewStateShareKey={view}" if view else ""
    return f"{redact(site).rstrip('/')}/#/{'/'.join(steps)}?workflowType=machine_learning{shown}"


def opening(address: str, link: str) -> str:
    """How the page behind a link is opened, as a sentence: at once on a server, after `emulate ui` for a database."""
    if address.startswith("http") and link:
        return f"Open {link}"
    file = database(address)
    default = file is not None and file == Path.cwd() / "mlflow.db"
    command = f"emulate ui{'' if default else f' --uri {redact(address)}'}"
    return f"Start the pages with `{command}`" + (f", then open {link}" if link else ".")


def silence(address: str) -> str:
    """Why nobody takes a connection at a server's address; empty when somebody does, or when only trying can tell."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(parts.hostname):
        return ""
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname, port), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        return redact(str(error))
    return ""
