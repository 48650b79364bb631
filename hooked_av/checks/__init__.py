"""What the tutorials' exercises are held to: right or wrong, and for the likely mistakes what went wrong.

One file a tutorial: `av.checks.quickstart`, `av.checks.hooks`, ... May import: everything above.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
