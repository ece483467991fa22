"""Conditions of filters: ``ctx.storage.courses.query({"starts_at": ge(monday) & lt(sunday)})``."""

from kontract.core.model.conditions import Condition, between, ge, gt, le, lt, one_of, prefix

__all__ = ["Condition", "between", "ge", "gt", "le", "lt", "one_of", "prefix"]
