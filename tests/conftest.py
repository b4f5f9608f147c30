"""What all tests share."""

from hypothesis import settings

# No deadline: the machine may be busy. Derandomised: the same tests every time.
settings.register_profile("overread", deadline=None, derandomize=True)
settings.load_profile("overread")
