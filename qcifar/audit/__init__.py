"""What a circuit can and cannot do: inert gates, light cones, closed forms, measures."""

from .audit import Settings, audit, three_lines
from .gates import Circuit

__all__ = ["Circuit", "Settings", "audit", "three_lines"]
