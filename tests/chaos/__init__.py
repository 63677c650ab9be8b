"""What Imago promises when it is broken on purpose, a file a chapter.

`make test` runs each chapter in its small form, `make chaos` in full: the same code, other numbers.
"""
