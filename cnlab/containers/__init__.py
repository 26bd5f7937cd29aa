"""Containers, by the parts that the standards and Docker cut them into.

`images` and `build`, `registry`, `network`, `bundle` and `runtime`; `container` puts them together, and
`engine` is Docker itself. Nothing is imported here: the runtime's command starts fast.
"""
