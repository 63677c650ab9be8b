"""Reads a model that was trained elsewhere into a teacher of ours, a module a kind of source.

What cannot be read is refused with the reason; what can, and ought to be known, is left as findings.
"""
