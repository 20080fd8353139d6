"""Intrinsic dimension of learning problems, with error bars."""
