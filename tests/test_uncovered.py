"""The table of lines that no test runs: every line of it stands in the code, and its check sees both kinds of fault."""

import pytest
from uncovered import PACKAGE, UNRUN, Unrun, faults

TABLE = (
    Unrun("a.py", "cannot be", ["never()"]),
    Unrun("a.py", "another machine can", ["run(gpu)"], elsewhere=True),
)


@pytest.mark.parametrize("one", UNRUN, ids=lambda one: one.reason)
def test_lines_that_no_test_runs_stand_in_the_code(one):
    code = {line.strip() for line in (PACKAGE / one.file).read_text(encoding="utf-8").splitlines()}
    assert set(one.lines) <= code
    assert one.reason


def test_each_line_that_no_test_runs_needs_a_reason_and_each_reason_such_a_line():
    assert faults({"a.py": ["never()", "run(gpu)"], "b.py": []}, TABLE) == []
    assert faults({"a.py": ["never()"]}, TABLE) == []
    assert faults({"a.py": ["never()", "new()"], "b.py": ["never()"]}, TABLE) == [
        "a.py: no test runs, and no reason is given for: new()",
        "b.py: no test runs, and no reason is given for: never()",
    ]
    assert faults({"a.py": ["run(gpu)"]}, TABLE) == ["a.py: a test runs this now, take it out of uncovered.py: never()"]
