"""What can be done to a pass: specs, routes, values, and the plan that they make for a prompt.

(Cuts of attention become masks in `decoder/cut_masks.py`.)

May import: `decoder`, and folders above.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
