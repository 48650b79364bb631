"""Analyses: one function and one frozen result type each. Nothing here knows a model family or draws a picture.

May import: everything above but `plots`; a result names its figure.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
