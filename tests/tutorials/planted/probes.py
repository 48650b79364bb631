"""Tutorial 08: exercise, wrong answer, what is said of it."""

OF = "for n, p in zip(table.sample.tolist(), table.position.tolist())]"
SECOND = "int(batch.row_spans[n].places.seconds[p, 0])"
BY_ROWS = """
def shuffled(labels, words, seed):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
"""
DRAWN_ANEW = """
def shuffled(labels, words, seed):
    of_words = torch.randint(10, (int(words.max()) + 1,), generator=torch.Generator().manual_seed(seed))
    return of_words[words]
"""
ONE_SEED = """
def shuffled(labels, words, seed):
    of_words = torch.stack([labels[words == word][0] for word in range(int(words.max()) + 1)])
    return of_words[torch.randperm(len(of_words), generator=torch.Generator().manual_seed(0))][words]
"""
NO_SEED = """
def shuffled(labels, words, seed):
    of_words = torch.stack([labels[words == word][0] for word in range(int(words.max()) + 1)])
    return of_words[torch.randperm(len(of_words))][words]
"""
OF_WORDS = "shuffled = lambda labels, words, seed: labels[: int(words.max()) + 1]"
BACK = """
def steering(rows, labels, here, there):
    return rows[labels == here].mean(dim=0) - rows[labels == there].mean(dim=0)
"""
FROM_ALL = "steering = lambda rows, labels, here, there: rows[labels == there].mean(dim=0) - rows.mean(dim=0)"
ROWS = [
    ("08", "labels_of_rows", f"labels_of = lambda table, batch, samples: [samples[n].shown[{SECOND}] {OF}", "of sound"),
    (
        "08",
        "labels_of_rows",
        f"labels_of = lambda table, batch, samples: [digits.index(samples[n].answer) {OF}",
        "one second only",
    ),
    ("08", "labels_of_rows", f"labels_of = lambda table, batch, samples: [{SECOND} {OF}", "these are the seconds"),
    (
        "08",
        "labels_of_rows",
        f"labels_of = lambda table, batch, samples: [samples[0].spoken[{SECOND} % 2] {OF}",
        "rows have another digit",
    ),
    (
        "08",
        "labels_of_rows",
        "labels_of = lambda table, batch, samples: [s.spoken[0] for s in samples]",
        "one label a row",
    ),
    ("08", "shuffled_words", BY_ROWS, "too easy to beat"),
    ("08", "shuffled_words", DRAWN_ANEW, "shuffle the labels that there are"),
    ("08", "shuffled_words", ONE_SEED, "the same for every seed"),
    ("08", "shuffled_words", NO_SEED, "nobody could repeat it"),
    ("08", "shuffled_words", OF_WORDS, "one label a row"),
    ("08", "shuffled_words", "shuffled = lambda labels, words, seed: labels", "these are the true labels"),
    ("08", "steering_vector", BACK, "leads back"),
    ("08", "steering_vector", FROM_ALL, "the mean of all digits"),
    (
        "08",
        "steering_vector",
        "steering = lambda rows, labels, here, there: rows[labels == there].mean(0)",
        "subtract it",
    ),
    (
        "08",
        "steering_vector",
        "steering = lambda rows, labels, here, there: rows[labels == there]",
        "the mean goes over",
    ),
    ("08", "where_they_part", "layer = 0", "still moves"),
    ("08", "where_they_part", "layer = model.cfg.n_layers - 1", "it is so already"),
    ("08", "where_they_part", "layer = -1", "a layer is asked for"),
]
