"""Files of a study folder: written whole or not at all, read back with a sentence when they are not what they were."""

import csv
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulate.errors import InputError, StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

FONTS = 42  # of a PDF: TrueType, cut to the letters that occur, which journals take
DOTS = 200  # an inch of a PNG: sharp on screens of two dots per pixel, and in print
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space, then run the same command again",
    errno.EDQUOT: "your quota is used up; free some space, then run the same command again",
    errno.EROFS: "the folder is read-only; choose another with `output:` in the study or --set output=FOLDER",
    errno.EACCES: "permission is denied; choose another folder with `output:` in the study or --set output=FOLDER",
    errno.EPERM: "permission is denied; choose another folder with `output:` in the study or --set output=FOLDER",
    errno.ENOTDIR: "a file stands where a folder should; choose another with `output:` in the study",
    errno.EEXIST: "a file stands where a folder should; choose another with `output:` in the study",
}


def advice(error: OSError, path: Path | str) -> StoreError:
    """The sentence for a write that the operating system refused. Nothing that was stored before is lost."""
    said = _ADVICE.get(error.errno or 0, f"{error.strerror or error}; mend this, then run the same command again")
    return StoreError(f"{path} cannot be written: {said}. Nothing that was finished is lost.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, durably, when the block ends well."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as e:
        raise advice(e, path) from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> Path:
    """Strict JSON: a number that is not finite becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Run the stage that writes it, or `emulate run`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise StoreError(f"{path} is not the JSON that was written there: {e}. Run its stage with --force.") from None


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Floats are written so that they are read back bit for bit."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(header)
        writer.writerows([[repr(float(x)) if isinstance(x, float) else x for x in row] for row in rows])
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="") as f:
            return list(csv.DictReader(f))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Run the stage that writes it, or `emulate run`.") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path} must be a text file with comma-separated values. Got bytes that are not text; save it as UTF-8."
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> Path:
    from safetensors.torch import save

    with replacing(path) as temporary:
        temporary.write_bytes(save({k: v.detach().contiguous() for k, v in tensors.items()}))
    return path


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Run the stage that writes it, or `emulate run`.") from None
    except SafetensorError as e:
        raise StoreError(f"{path} is damaged: {e}. Run its stage with --force.") from None


def write_figures(folder: Path, figures: Mapping[str, tuple["Figure", str]]) -> None:
    """Figures with their captions, each as PNG and PDF, and figures.json, which tells of them and says what they show."""
    from pipelines.figures.alternatives import alternative

    listed = []
    for name, (figure, caption) in figures.items():
        write_figure(folder / f"{name}.png", figure)
        listed.append({"name": name, "file": f"{name}.png", "caption": caption, "alt": alternative(figure)})
    write_json(folder / "figures.json", listed)


def write_figure(path: Path, figure: "Figure") -> Path:
    """A PNG for screens, and beside it a PDF for papers, its letters kept as letters; the same bytes every time."""
    from matplotlib import rc_context

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DOTS, metadata={"Software": None})
    figure.set_layout_engine("none")  # it is laid out now, and the PDF has the same axes for half the time
    undated = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    with replacing(path.with_suffix(".pdf")) as temporary, rc_context({"pdf.fonttype": FONTS}):
        figure.savefig(temporary, metadata=undated)
    return path


def digest(path: Path, *, but: str = "") -> str:
    """sha256 of a file, or of all files below a folder with their names, without those that are called `but`."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for p in sorted(x for x in path.rglob("*") if x.is_file() and x.name != but):
        total.update(f"{p.relative_to(path)}\0{digest(p)}\n".encode())
    return total.hexdigest()


def plain_json(value: Any) -> Any:
    """The same with null for a number that is not finite, and lists for tuples."""
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
