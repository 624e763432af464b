"""What a circuit can and cannot do: inert gates, light cones, closed forms, measures."""

from .gates import Circuit
from .parts import Settings, audit, three_lines

__all__ = ["Circuit", "Settings", "audit", "three_lines"]
