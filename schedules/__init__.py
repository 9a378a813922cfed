"""What a kernel's generated code may vary in: axes, spaces of legal schedules, and the schedule as a value."""

from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space

__all__ = ["Axis", "Schedule", "Space"]
