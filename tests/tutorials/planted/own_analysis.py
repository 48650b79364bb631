"""Tutorial 09: exercise, wrong answer, what is said of it."""

_CLASS = """
class WithShares(SecondsNeeded):
    axes: ClassVar = {axes}

    {decorator}
    def shares(self):
        return {shares}
"""
_AXES = '{**SecondsNeeded.axes, "shares": ("modality", "second")}'


def _class(shares="self.drops / self.drops.sum()", axes=_AXES, decorator="@property"):
    return _CLASS.format(shares=shares, axes=axes, decorator=decorator)


ROWS = [
    ("09", "shares", "WithShares = 0.5", "a class that derives"),
    ("09", "shares", "WithShares = SecondsNeeded", "it has no `shares`"),
    ("09", "shares", _class(decorator=""), "write @property"),
    ("09", "shares", _class("self.drops / self.drops.sum(axis=1, keepdims=True)"), "of a modality, not of all"),
    ("09", "shares", _class("self.drops / self.drops.max()"), "divide by the sum"),
    ("09", "shares", _class("self.drops.sum(axis=1) / self.drops.sum()"), "one share for each cell"),
    ("09", "shares", _class("self.drops"), "must add up to 1"),
    ("09", "shares", _class(axes="SecondsNeeded.axes"), "not in the table"),
    ("09", "shares", _class(axes=_AXES.replace('"modality", "second"', '"second", "modality"')), "in their order"),
    ("09", "n_new", "n_new = len(samples)", "not all of them"),
    ("09", "n_new", "n_new = len(samples) - 2", "so many are there"),
    ("09", "n_new", "n_new = 0", "some of them are gone"),
    ("09", "n_new", "n_new = 1", "samples and .* files"),
    ("09", "strongest", "strongest = lambda frame: 3", "give a table"),
    ("09", "strongest", "strongest = lambda frame: frame.loc[[frame.drops.idxmax()]]", "of the whole table"),
    ("09", "strongest", "strongest = lambda frame: frame.sort_values('drops')", "all rows"),
    ("09", "strongest", "strongest = lambda frame: frame.groupby('sample').max().reset_index()", "of every column"),
    ("09", "strongest", "strongest = lambda frame: frame.groupby(['sample', 'modality']).first()", "but 10 rows"),
    (
        "09",
        "strongest",
        "strongest = lambda frame: frame.loc[frame.groupby('sample').drops.idxmin()]",
        "smallest drops",
    ),
    ("09", "strongest", "strongest = lambda frame: frame.drop_duplicates('sample')", "not those of the largest"),
]
