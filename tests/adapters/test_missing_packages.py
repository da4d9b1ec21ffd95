"""An adapter without its library says what to install, as an ImportError that `try` knows."""

import importlib
import sys

import pytest

from emulate.errors import EmulateError, MissingPackage


@pytest.mark.parametrize(("adapter", "package"), [("jax", "jax"), ("cobaya", "cobaya")])
def test_what_to_install_is_told(adapter, package, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"emulate.adapters.{adapter}", raising=False)
    with pytest.raises(
        MissingPackage, match=rf"must have the package {package}\. .* pip install 'emulate\[{package}\]'"
    ) as e:
        importlib.import_module(f"emulate.adapters.{adapter}")
    assert isinstance(e.value, ImportError)
    assert isinstance(e.value, EmulateError)


def test_adapters_are_loaded_one_by_one():
    """Nothing of a foreign library comes with the package that holds its adapter."""
    import subprocess

    code = "import sys, emulate.adapters; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "sklearn", "jax", "cobaya", "numpy"} & set(loaded)
