"""video-SALMONN 2+: audio branch, layout, preparation, and the family."""
