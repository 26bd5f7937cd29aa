"""The figures that the course promises, each measured beside its peer in the same run: ``make bench``."""
