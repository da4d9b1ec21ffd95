import textwrap

import numpy as np
import pytest
import torch

from emulate import registry
from emulate.errors import InputError, RunFailed
from emulate.runs import Field, Outputs
from emulate.simulators.function import Function
from emulate.space import Parameter, Space, Uniform
from emulate.store import RunStore

SPACE = Space((Parameter("a", Uniform(0.0, 1.0)), Parameter("b", Uniform(0.0, 2.0))))
THETA = torch.tensor([0.25, 1.5], dtype=torch.float64)
FIELDS = [
    {"name": "total", "unit": "s", "positive": True},
    {"name": "pk", "coordinate": "k", "at": [0.1, 1], "at_unit": "h"},
]
COUNT = iter(range(100))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of a fresh name into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(code):
        name = f"model_{next(COUNT)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


def function(call, **settings):
    return registry.build("simulators", {"use": "function", "call": call, **settings}, space=SPACE)


def test_named_values_in_named_arrays_out(module):
    name = module("""
        import torch
        def run(p):
            return {"pk": torch.tensor([p["a"], p["b"]]).double(), "spare": "x", "total": p["a"] + p["b"]}
        """)
    simulator = function(f"{name}:run", outputs=FIELDS)
    assert simulator.outputs == Outputs((Field("total", "s", True), Field("pk", "", False, "k", (0.1, 1.0), "h")))
    assert simulator.run(THETA, seed=0).tolist() == [1.75, 0.25, 1.5]


def test_values_as_keywords(module):
    name = module("def run(a, *, b=7.0, seed=None):\n    return [a, b, -1.0 if seed is None else seed]\n")
    outputs = [{"name": "y", "size": 3}]
    simulator = function(f"{name}:run", argument="keywords", outputs=outputs)
    assert simulator.run(THETA, seed=4).tolist() == [0.25, 1.5, -1.0]
    noisy = function(f"{name}:run", argument="keywords", outputs=outputs, stochastic=True)
    assert noisy.run(THETA, seed=4).tolist() == [0.25, 1.5, 4.0]


def test_masked_values_are_missing_and_no_numbers(module):
    """As readers of NetCDF give them: what lies under the mask is a fill value."""
    name = module("import numpy as np\ndef run(p):\n    return np.ma.array([p['a'], -9999], mask=[False, True])\n")
    y = function(f"{name}:run", outputs=[{"name": "y", "size": 2}]).run(THETA, seed=0)
    assert y[0] == 0.25
    assert y[1].isnan()


def test_a_size_that_no_machine_holds_is_refused():
    with pytest.raises(
        InputError, match=r"^simulators\.outputs: output 'y': size must be at most 10000000\. Got 99999999999; decl"
    ):
        function("statistics:fmean", argument="array", outputs=[{"name": "y", "size": 99_999_999_999}])


def test_an_array_in_an_array_out(module):
    name = module("""
        import numpy as np
        class Model:
            @staticmethod
            def run(theta):
                out = theta @ np.ones((2, 3))
                theta[:] = 0
                return out.astype(np.float32)
        """)
    simulator = function(f"{name}:Model.run", argument="array", outputs=[{"name": "y", "size": 3}])
    assert simulator.outputs.field("y").at == (0.0, 1.0, 2.0)
    assert simulator.run(THETA, seed=0).tolist() == [1.75] * 3
    assert THETA.tolist() == [0.25, 1.5]


def test_only_a_stochastic_callable_is_given_the_seed(module):
    name = module("""
        import numpy as np
        def noisy(p, seed):
            return np.random.default_rng(seed).normal()
        def plain(p, seed=5):
            return seed
        """)
    noisy = function(f"{name}:noisy", stochastic=True)
    assert noisy.stochastic
    assert float(noisy.run(THETA, seed=3)) == np.random.default_rng(3).normal()
    assert function(f"{name}:plain").run(THETA, seed=9).tolist() == [5]


def test_the_content_of_the_file_and_the_revision_are_in_the_key(module, tmp_path):
    name = module("def run(p):\n    return 1.0\n")
    simulator = function(f"{name}:run")
    key = RunStore.key(simulator, THETA, 0)
    assert RunStore.key(function(f"{name}:run"), THETA, 0) == key
    assert RunStore.key(function(f"{name}:run", revision="2"), THETA, 0) != key
    (tmp_path / f"{name}.py").write_text("def run(p):\n    return 2.0\n")
    assert RunStore.key(simulator, THETA, 0) != key


def test_wrong_names_are_answered_with_a_sentence(module, tmp_path):
    name = module("def simulate(p):\n    return 1.0\nvalue = 3\n")
    broken = module("import no_such_package_anywhere\n")
    bad = module("def run(p:\n")
    cases = {
        "no_colon": r'^call must be "module:function"\. Got \'no_colon\'; write the module, a colon, and the name\.$',
        "no_such_module_x:run": r"^call: 'no_such_module_x:run' cannot be imported: No module named 'no_such_module_x'\. "
                                rf"Put no_such_module_x\.py into {tmp_path}, or install its package\.$",
        f"{broken}:run": rf"^call: '{broken}:run' cannot be imported: No module named 'no_such_package_anywhere'\. ",
        f"{bad}:run": rf"^call: '{bad}' broke while it was imported: SyntaxError: .*\. Mend it\.$",
        f"{name}:simulat": rf"^call: '{name}' has no 'simulat'\. Did you mean \"simulate\"\? Mend the name after the colon\.$",
        f"{name}:value": rf"^call must name something that can be called\. Got '{name}:value', a int\.$",
        "builtins:sum": r"^call must name a callable of a file, whose content says when to run again\. Got 'builtins:sum'; wrap",
    }  # fmt: skip
    for call, sentence in cases.items():
        with pytest.raises(InputError, match=sentence):
            _ = function(call).version


def test_wrong_answers_are_failures_with_a_sentence(module):
    name = module("""
        def short(p): return [1.0, 2.0]
        def lacks(p): return {"pk": [1, 2]}
        def long(p): return {"pk": [1, 2, 3], "total": 1}
        def text(p): return "x"
        def ragged(p): return {"pk": [1, 2], "total": 1j}
        def nothing(p): return None
        """)
    cases = {
        "short": r"^badshape: \w+:short must return the declared 3 values in every run\. Got 2, shape \(2,\); declare what it "
                 r"returns under `outputs`, or mend it if it changes shape between runs\.$",
        "lacks": r"^badshape: \w+:lacks must return a dict with every declared output \(total, pk\)\. Missing: total; it has pk",
        "long": r"^badshape: \w+:long must return the declared 2 values of pk in every run\. Got 3, shape \(3,\); declare",
        "text": r"^badshape: \w+:text must return real numbers\. Got str of <U1\.$",
        "ragged": r"^badshape: \w+:ragged must return real numbers of total\. Got complex of complex128\.$",
        "nothing": r"^badshape: \w+:nothing must return real numbers\. Got NoneType of object\.$",
    }  # fmt: skip
    for call, sentence in cases.items():
        with pytest.raises(RunFailed, match=sentence):
            function(f"{name}:{call}", outputs=FIELDS).run(THETA, seed=0)


@pytest.mark.parametrize(("outputs", "sentence"), [
    (3, r"^simulators\.outputs: outputs must be a list of fields\. Got 3; write - \{name: y\}\.$"),
    ([], r"^simulators\.outputs: outputs must be at least one field, each named once\. Got \[\]\.$"),
    ([{"nam": "y"}], r"an output must be a mapping with a name\. Got \{'nam': 'y'\}; write - \{name: y\}\.$"),
    ([{"name": "y", "siz": 3}], r"output 'y': the key 'siz' is not known; keys are name, size, .* Did you mean \"size\"\?"),
    ([{"name": "y", "size": 0}], r"output 'y': size must be a whole number above 0, and stand without `at`\. Got 0\.$"),
    ([{"name": "y", "at": [1, 2]}], r"field 'y' must have both a coordinate and its values `at`, or neither\."),
    ([{"name": "y", "coordinate": "k", "at": ["x"]}], r"output 'y': `at` must be a list of numbers\. Got \['x'\]\.$"),
])  # fmt: skip
def test_wrong_outputs_are_answered_with_a_sentence(outputs, sentence):
    with pytest.raises(InputError, match=sentence):
        function("statistics:fmean", argument="array", outputs=outputs)


def test_outputs_may_be_given_as_records():
    outputs = Outputs((Field("y"),))
    assert Function(space=SPACE, call="statistics:fmean", outputs=outputs).outputs is outputs
