"""What the documentation says is what the code does."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import make_hooks  # noqa: E402


def test_the_hook_table_is_that_of_the_code():
    assert make_hooks.PAGE.read_text(encoding="utf-8") == make_hooks.hook_table(), "run python docs/make_hooks.py"
