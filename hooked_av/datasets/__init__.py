"""A manifest of questions in, a table of results out; in shards, resumable.

May import: `analyses`, and folders above.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
