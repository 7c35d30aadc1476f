"""What varies between models: head dimensions, groups, windows, adapters."""

import pytest

pytestmark = pytest.mark.serving
