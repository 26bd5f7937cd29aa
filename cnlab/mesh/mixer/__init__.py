"""Mixer: checks requests by policies and quotas, and gathers what sidecars report of them."""
