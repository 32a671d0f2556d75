"""Tests, by tier."""

import pytest

pytest.register_assert_rewrite("testing")
