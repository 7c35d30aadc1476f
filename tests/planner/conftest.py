"""Settings of the planner's tests."""

from hypothesis import settings

# A busy machine makes a test slow, not wrong; what the command line takes is measured apart.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
