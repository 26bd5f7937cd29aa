"""An application of small services in three languages, and what starts it: as processes or as containers."""

from cnlab.apps.application import Application, Instance, Program, Service
from cnlab.apps.bookinfo import bookinfo
from cnlab.apps.deployment import Deployment

__all__ = ["Application", "Deployment", "Instance", "Program", "Service", "bookinfo"]
