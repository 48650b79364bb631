"""Writes a small video-SALMONN 2+ checkpoint folder with random weights, laid out as the released ones are.

python examples/make_salmonn_folder.py FOLDER
"""

import sys

import hooked_av as av

if __name__ == "__main__":
    av.random_salmonn(n_layers=6).save_pretrained(sys.argv[1])
