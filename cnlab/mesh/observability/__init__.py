"""Metrics: what sidecars count, who collects it, and the questions that can be asked of it."""
