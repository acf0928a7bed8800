"""Packages that only some environments need: ``extra_module``, looked up once for all steps."""

from __future__ import annotations

import functools

from qtot.extras import extra_module

host_module = functools.cache(extra_module)
