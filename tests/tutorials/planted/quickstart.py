"""Tutorial 00: exercise, wrong answer, what is said of it."""

ROWS = [
    ("00", "tokens_a_second", "tokens_a_second = 100", "the whole sound"),
    ("00", "tokens_a_second", "tokens_a_second = 4", "second of film"),
    ("00", "tokens_a_second", "tokens_a_second = 145", "divide the length"),
    ("00", "smallest_cut", "cut = 'last->audio@4-6'", "keys come first"),
    ("00", "smallest_cut", "cut = 'video->last@4-6'", "about the sound"),
    ("00", "smallest_cut", "cut = 'audio->question@4-6'", "past the question"),
    ("00", "smallest_cut", "cut = 'audio->last'", "every layer"),
    ("00", "smallest_cut", "cut = 'audio->last@0-2'", "still 'six'"),
]
