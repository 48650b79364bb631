"""What comes with tiny-av: sample clips, labelled samples of its task, and held-out questions as cases."""

from .cases import held_out_cases as held_out_cases
from .held_out import read_held_out as read_held_out
from .labelled import draw_samples as draw_samples
from .samples import read_samples as read_samples
