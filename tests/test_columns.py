"""What people write down: with and without names, between commas, semicolons and tabs."""

import pytest

from emulate.columns import column
from emulate.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        "1\n2.5\n-3e2\n",
        "# counts of 2026\nanything\n1\n\n2.5\n-3e2",
        "low,value,error\n0,1,0.1\n1,2.5,0.1\n2,-3e2,0.1\n",
        "\ufefflow;value\n0;1\n1;2.5\n2;-3e2\n",
        "value\tname\n1\ta\n2.5\tb\n-3e2\tc, d\n",
    ],
)
def test_the_same_numbers_are_read_from_each_way_to_write_them(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, "utf-8")
    assert column(tmp_path / "a.csv", "value").tolist() == [1.0, 2.5, -300.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold a number on every line. It is empty."),
        ("1,2\n3,4\n", "must have a header that names a column 'value', or one number on every line. Got 2 columns without "
         "names; write names above them."),
        ("low,values\n1,2\n", "must have a column 'value', or one column alone. It has low, values; rename one. Did you mean "
         '"values"?'),
        ("low,value\n1,2\n3\n", "line 3: must have 2 values, as the first line has. Got 1."),
        ("low,value\nGeV,pb\n1,2\n", "line 2: must be a finite number. Got 'pb'; mend it, or take the line out if it is no data."),
        ("1\n2,5\n", "line 2: must have 1 values, as the first line has. Got 2."),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused(tmp_path, text, said):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError) as met:
        column(path, "value")
    assert str(met.value) in (f"{path} {said}", f"{path}, {said}")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe1")
    with pytest.raises(
        InputError, match=r"a\.csv must be a text file of numbers\. It could not be read: 'utf-8' codec"
    ):
        column(tmp_path / "a.csv", "value")
