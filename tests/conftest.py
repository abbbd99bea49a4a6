"""For all tests. Its being here also puts this folder on sys.path, so that those in subfolders can import `processes`."""

from hypothesis import HealthCheck, settings

# The same examples everywhere, however busy the machine.
settings.register_profile("gander", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gander")
