"""Commands that measure what the library claims."""
