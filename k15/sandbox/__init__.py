"""Runs code nobody trusts, and says what became of it (Kimi k1.5, section 2.6.4)."""
