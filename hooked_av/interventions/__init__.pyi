"""The kinds of intervention, what one of your own is made of, and specs as JSON."""

from .intervention import Edit as Edit
from .intervention import Intervention as Intervention
from .intervention import cut_between as cut_between
from .json import from_json as from_json
from .json import to_json as to_json
from .random_cuts import BlockRandom as BlockRandom
from .routes import Route as Route
from .specs import Ablate as Ablate
from .specs import Add as Add
from .specs import BlockAttention as BlockAttention
from .specs import DropTokens as DropTokens
from .specs import KeepOnly as KeepOnly
from .specs import Patch as Patch
