"""Derivatives of a block's interaction: by the derivatives of its operations, or automatic."""
