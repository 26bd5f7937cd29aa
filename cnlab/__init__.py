"""From Containers to Functions: every layer of cloud native, small enough to read, real enough to run."""

__version__ = "0.1.0"
