"""Containers from Python, in the words of the Docker SDK: an image, a bundle, our runtime and a network."""

from cnlab.containers.container.container import Container, ContainerError, ExecResult, exit_status, find, run

__all__ = ["Container", "ContainerError", "ExecResult", "exit_status", "find", "run"]
