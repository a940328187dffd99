"""The version of the package, the only place where it is written. setup.py reads it as text."""

__version__ = "0.1.0"
