"""The command line: one file for the demo and the group, one for analyses, one for tiny-av.

May import: everything.
"""
