"""The architectures whose circuits are tested."""

from __future__ import annotations

import pytest

from tiny_models import MODELS


@pytest.fixture(params=MODELS)
def family(request):
    """Name of an architecture."""
    return request.param
