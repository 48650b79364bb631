"""Figures, one file each, and pages: the only place that imports a plotting library. No figure runs a model.

May import: what it draws (`prompt`, `media`), and folders above. A figure takes its result as it is: its first line
names the type, which stands further down, where alone it is written what it holds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
