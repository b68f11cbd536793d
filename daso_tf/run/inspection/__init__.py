"""What does the network say about every picture of a run?

`inspect.py` writes everything; each other file is one part of it.
"""
