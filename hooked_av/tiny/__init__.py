"""tiny-av: the task, the trainer and the shipped checkpoint of a small Qwen2.5-Omni that works.

May import: everything above.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
